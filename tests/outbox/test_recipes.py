"""The operations guide: its files are read as their tools read them, and each command in them is run."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perkamo
from perkamo import Event, SyncOutbox
from perkamo.cli.relay_metrics import RelayMetrics
from perkamo.sandbox import Sandbox

yaml = pytest.importorskip("yaml")

RECIPES = Path(perkamo.__file__).parent / "outbox" / "recipes"
UNIT = (RECIPES / "perkamo-relay.service").read_text("utf-8")
GUIDE = (RECIPES / "README.md").read_text("utf-8")
PLACE = re.compile(r"/var/lib/shop/[\w-]*outbox")
KUBERNETES = ("kubernetes-sqlite.yaml", "kubernetes-postgres.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    """Read a file of YAML."""
    return list(yaml.safe_load_all((RECIPES / name).read_text("utf-8")))


def containers(value: object) -> Iterator[dict[str, Any]]:
    """Find what has a command, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("command"), list):
            yield value
        for inner in value.values():
            yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


def commands() -> list[list[str]]:
    """Every command of ours in unit, files and guide, each once."""
    found = [shlex.split(line.partition("=")[2]) for line in UNIT.splitlines() if line.startswith("ExecStart=")]
    for name in ("compose.yaml", *KUBERNETES):
        for one in containers(documents(name)):
            found.append([*one["command"], *one.get("args", [])])
            test = one.get("healthcheck", {}).get("test", [])
            found += [test[1:]] if test else []
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL))
    found += [shlex.split(line) for line in shell.splitlines() if line]
    ours = [command for command in found if command[0].endswith("perkamo")]
    return [list(one) for one in dict.fromkeys(("perkamo", *command[1:]) for command in ours)]


@pytest.mark.parametrize("name", ["perkamo-relay.service", "compose.yaml", "kubernetes-sqlite.yaml"])
def test_a_relay_has_its_directory_before_the_first_event(name: str) -> None:
    """The recipe makes it; catches a relay that ends, and is started ever more rarely, until the shop's first order."""
    if name.endswith("service"):
        given = [shlex.split(line.partition("=")[2]) for line in UNIT.splitlines() if line.startswith("ExecStart")]
    else:
        given = [one["command"] for document in documents(name) for one in containers(document)]
    made = [command[-1] for command in given if command[0].endswith("mkdir") and "0700" in command]

    assert made == [command[3] for command in given if command[1:3] == ["outbox", "relay"]]


def is_for_postgres(command: list[str]) -> bool:
    """Tell whether a command's outbox is in PostgreSQL."""
    return any(word.startswith("postgresql://") for word in command)


ON_DISK = [command for command in commands() if not is_for_postgres(command)]
IN_POSTGRES = [command for command in commands() if is_for_postgres(command)]


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", ON_DISK, ids=" ".join)
def test_a_command_of_the_guide_runs(command: list[str], sandbox: Sandbox, tmp_path: Path) -> None:
    """With a directory and a port of the test's own; catches an option that was renamed, or never was."""
    outbox = tmp_path / "outbox"
    with SyncOutbox(outbox) as box:
        box.put(Event("u", "review.created", "review_1"))
    run([PLACE.sub(str(outbox), word) for word in command], sandbox)


def run(command: list[str], sandbox: Sandbox) -> None:
    """Run a command; one that serves is ended once it has said that it does."""
    given = [re.sub(r"^(127\.0\.0\.1|0\.0\.0\.0):\d+$", "127.0.0.1:0", one) for one in command]
    given = ["127.0.0.1" if one == "0.0.0.0" else "0" if one == "4001" else one for one in given]
    process = subprocess.Popen(
        [sys.executable, "-m", *given],
        env={"PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url, "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not {"stats", "check"} & set(command):
            assert process.stdout.readline(), process.communicate(timeout=30)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()

    assert (process.returncode, err) == (0, "")


def test_compose_takes_the_file() -> None:
    """By the specification of Compose; catches a misspelt key, a wrong unit, and a volume that nobody declares."""
    compose_spec = pytest.importorskip("compose_spec")
    text = (RECIPES / "compose.yaml").read_text("utf-8")

    compose_spec.PyCompose.from_yaml(text).validate_volumes()
    with pytest.raises(ValueError, match="stop_grace_periods"):
        compose_spec.PyCompose.from_yaml(text.replace("stop_grace_period", "stop_grace_periods"))
    with pytest.raises(ValueError, match="outbx"):
        compose_spec.PyCompose.from_yaml(text.replace("outbox:/", "outbx:/")).validate_volumes()


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_takes_the_file(name: str) -> None:
    """By the models of Kubernetes 1.37, without a cluster; catches a misspelt key and a value of the wrong type."""
    text = (RECIPES / name).read_text("utf-8")

    assert unknown_to_kubernetes(text) == []
    assert set(unknown_to_kubernetes(text.replace("replicas:", "replica:"))) == {".spec.replica"}
    with pytest.raises(ValueError, match="periodSeconds"):
        unknown_to_kubernetes(text.replace("periodSeconds: 10", "periodSeconds: ten"))


def unknown_to_kubernetes(text: str) -> list[str]:
    """Return the keys of a file that Kubernetes would not take, and refuse what is of the wrong type."""
    codecs = pytest.importorskip("lightkube.codecs")
    read = codecs.load_all_yaml(text)
    return [
        key for given, kept in zip(yaml.safe_load_all(text), read, strict=True) for key in lost(given, kept.to_dict())
    ]


def lost(given: object, kept: object, place: str = "") -> Iterator[str]:
    """Yield where something was given that was not kept as it is."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept.get(key), f"{place}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif given != kept:
        yield place


def test_the_files_agree_with_each_other_and_with_the_command() -> None:
    """Volumes, labels and times to end; catches a grace that the engine cuts short, and a mount that nothing has."""
    [compose] = documents("compose.yaml")
    [stateful] = documents("kubernetes-sqlite.yaml")
    pod = stateful["spec"]["template"]["spec"]
    relay = compose["services"]["relay"]

    mounts = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
    assert mounts == {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    assert {volume.partition(":")[0] for volume in relay["volumes"]} == set(compose["volumes"])
    assert int(relay["stop_grace_period"].removesuffix("s")) > 20
    assert "TimeoutStopSec=30" in UNIT
    assert compose["services"]["web"]["environment"]["PERKAMO_SECRET_KEY"] == Sandbox().api_key
    assert compose["services"]["web"]["environment"] == relay["environment"]
    assert "sk_test_" not in UNIT
    for name in KUBERNETES:
        assert "sk_test_" not in (RECIPES / name).read_text("utf-8")
        *_, delivering = documents(name)
        assert delivering["spec"]["selector"]["matchLabels"] == delivering["spec"]["template"]["metadata"]["labels"]
        assert int(delivering["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]) > 20


def test_the_alerts_name_figures_and_errors_that_there_are(tmp_path: Path) -> None:
    """Catches an alert that can never fire."""
    with SyncOutbox(tmp_path / "outbox") as outbox:
        shown = RelayMetrics(lambda: None).text(outbox.stats()).decode()
    there = set(re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE))
    [alerts] = documents("alerts.yaml")
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    asked = {name for rule in rules for name in re.findall(r"\bperkamo_\w+", rule["expr"])}
    errors = {name for rule in rules for name in re.findall(r"\bPerkamo\w+Error\b", rule["expr"])}

    assert len(rules) >= 4
    assert asked <= there
    assert errors
    assert errors <= set(perkamo.__all__)
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """With a program that exists in the place of ours; catches a directive that systemd does not know."""
    unit = tmp_path / "perkamo-relay.service"
    unit.write_text(re.sub(r"/opt/shop/\S+/perkamo", "/bin/true", UNIT))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], env=dict(os.environ), capture_output=True, text=True, check=False
    )

    ours = [line for line in done.stderr.splitlines() if "perkamo-relay" in line]
    assert (ours, done.returncode) == ([], 0), done.stderr


def test_the_script_of_the_guide_erases_one_customer_and_nothing_else(tmp_path: Path) -> None:
    """No byte of the customer is left and nothing is missing; catches a script for tables that have changed."""
    [script] = re.findall(r"```python file=erase_customer.py\n(.*?)```", GUIDE, re.DOTALL)
    with SyncOutbox(tmp_path / "outbox") as box:
        for number in range(3):
            box.put(Event("customer_to_erase", "review.created", f"erased_{number}"))
            box.put(Event("customer_to_keep", "review.created", f"kept_{number}"))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path / "outbox"), "customer_to_erase"],
        capture_output=True,
        text=True,
        check=False,
    )
    with SyncOutbox(tmp_path / "outbox") as box:
        stats = box.stats()
        customers = {Event.from_bytes(one.body).user_id for one in box.waiting()}
    files = b"".join(path.read_bytes() for path in (tmp_path / "outbox").iterdir())

    assert (done.returncode, done.stdout, done.stderr) == (0, "3 events erased\n", "")
    assert (stats.accepted, stats.pending, stats.delivered, stats.missing) == (6, 3, 3, 0)
    assert customers == {"customer_to_keep"}
    assert b"customer_to_erase" not in files
    assert b"customer_to_keep" in files
