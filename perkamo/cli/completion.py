"""``python -m perkamo completion SHELL``: a script that completes commands, options and files in a shell."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, cast

from attrs import frozen

from perkamo.cli import stdio
from perkamo.cli.exit_codes import DONE
from perkamo.cli.help import explain
from perkamo.cli.main import COMMANDS, command_parser
from perkamo.cli.running import explained


@frozen
class Argument:
    """An argument of a command: an option or a positional value.

    Attributes:
        option: The option, such as ``--json``; empty for a positional value.
        value: The name of the value in the help; empty for an option without a value.
        summary: Its text in the help.
        choices: The possible values, if they are known.
        is_path: Whether the value is a file or a directory.
        count: How often argparse takes it: ``"?"``, ``"*"``, or None for once.
    """

    option: str
    value: str
    summary: str
    choices: tuple[str, ...]
    is_path: bool
    count: str | None


Commands: TypeAlias = Mapping[str, Sequence[Argument]]


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example='eval "$(perkamo completion bash)"   # in ~/.bashrc\n'
        'eval "$(perkamo completion zsh)"    # in ~/.zshrc, after compinit\n'
        "perkamo completion fish > ~/.config/fish/completions/perkamo.fish",
        exit_codes=f"{DONE}  done\n2  wrong usage",
    )
    parser.add_argument("shell", choices=SCRIPTS, help="the shell that reads the script")


def run(args: Namespace) -> int:
    """Print the script; return the exit code."""

    def show() -> int:
        lines = SCRIPTS[args.shell]({name: _arguments(command_parser(name)) for name in COMMANDS})
        stdio.write_bytes("".join(f"{line}\n" for line in lines).encode())  # whatever the terminal's encoding
        return DONE

    return explained("completion", show)


def _arguments(parser: ArgumentParser) -> Sequence[Argument]:
    actions: Sequence[Action] = parser._actions  # noqa: SLF001 - argparse lists them nowhere else
    return [
        Argument(
            option=action.option_strings[-1] if action.option_strings else "",
            value="" if action.nargs == 0 else str(action.metavar or action.dest),
            summary=(action.help or "").partition(" (default: ")[0].partition(". ")[0],
            choices=tuple(str(choice) for choice in cast("Sequence[object]", action.choices or ())),
            is_path=action.type is Path or not {"FILE", "DIR"}.isdisjoint(str(action.metavar).split("|")),
            count=None if action.nargs is None else str(action.nargs),
        )
        for action in actions
    ]


def _bash(commands: Commands) -> Iterator[str]:
    yield from _BASH_BEGIN
    yield f"    '') words='{' '.join(commands)} --help --version' ;;"
    for name, arguments in commands.items():
        yield f"    {name})"
        yield "      case $previous,$current in"
        for one in arguments:
            if one.option and one.value:
                yield f"        {one.option},*) {_bash_values(one)} ;;"
        yield f"        *,-*) words='{' '.join(one.option for one in arguments if one.option)}' ;;"
        yield "        *)"
        for one in arguments:
            if not one.option and one.choices:  # until one of them was typed
                yield f"          [[ $typed =~ \\ ({'|'.join(one.choices)})\\  ]] || words='{' '.join(one.choices)}'"
            elif not one.option and one.is_path:
                yield "          [[ -n $words ]] || files=1"
        yield "          ;;"
        yield "      esac"
        yield "      ;;"
    yield from _BASH_END


_BASH_BEGIN: Final = """\
_perkamo() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command= words= files= typed=' ' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    typed+="${COMP_WORDS[i]} "
    [[ -n $command || ${COMP_WORDS[i]} == -* ]] || command=${COMP_WORDS[i]}
  done
  case $command in""".splitlines()
_BASH_END: Final = """\
  esac
  local IFS=$'\\n'
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$current"))
  else
    COMPREPLY=($(compgen -W "${words// /$IFS}" -- "$current"))
  fi
}
complete -F _perkamo perkamo""".splitlines()


def _bash_values(one: Argument) -> str:
    return "files=1" if one.is_path else f"words='{' '.join(one.choices)}'"


def _zsh(commands: Commands) -> Iterator[str]:
    yield "#compdef perkamo"
    yield "_perkamo() {"
    yield "  local -a commands"
    yield "  local line state"
    yield "  commands=("
    yield from (f"    {_quoted(f'{name}:{COMMANDS[name][1]}')}" for name in commands)
    yield "  )"
    yield "  _arguments -C '--help[show this help message and exit]' '--version[show the version]' \\"
    yield "    '1:command:->command' '*::argument:->argument' && return"
    yield "  case $state in"
    yield "    command) _describe command commands ;;"
    yield "    argument)"
    yield "      case $words[1] in"
    for name, arguments in commands.items():
        yield f"        {name})"
        yield "          _arguments \\"
        yield from (f"            {_quoted(_zsh_argument(one))} \\" for one in arguments)
        yield "            && return ;;"
    yield "      esac ;;"
    yield "  esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _perkamo ]]; then _perkamo "$@"'
    yield "else"
    yield "  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }"
    yield "  compdef _perkamo perkamo"
    yield "fi"


def _zsh_argument(one: Argument) -> str:
    action = "_files" if one.is_path else f"({' '.join(one.choices)})"
    value = f":{_without(one.value, ':')}:{action}" if one.value else ""
    if one.option:
        return f"{one.option}[{_without(one.summary, '[]')}]{value}"
    return {"?": "::", "*": "*:"}.get(one.count or "", ":") + value[1:]


def _fish(commands: Commands) -> Iterator[str]:
    yield "complete -c perkamo -f"
    yield "complete -c perkamo -n __fish_use_subcommand -l version -d 'show the version'"
    for name in commands:
        yield f"complete -c perkamo -n __fish_use_subcommand -a {name} -d {_quoted(COMMANDS[name][1])}"
    for name, arguments in commands.items():
        seen = f"__fish_seen_subcommand_from {name}"
        for one in arguments:
            values = "-F" if one.is_path else f"-a '{' '.join(one.choices)}'"
            if one.option:
                takes = f" {'-r' if one.is_path else '-x'} {values}" if one.value else ""
                yield f"complete -c perkamo -n '{seen}' -l {one.option[2:]} -d {_quoted(one.summary)}{takes}"
            elif one.choices:  # until one of them was typed
                chosen = f"__fish_seen_subcommand_from {' '.join(one.choices)}"
                yield f"complete -c perkamo -n '{seen}; and not {chosen}' {values}"
                seen = f"{seen}; and {chosen}" if one.count is None else seen
            elif one.is_path:
                yield f"complete -c perkamo -n '{seen}' {values}"


def _quoted(text: str) -> str:
    """Return a text in the quotes of all three shells."""
    return "'" + text.replace("'", "'\\''") + "'"


def _without(text: str, signs: str) -> str:
    """Leave out characters that have a special meaning here."""
    return text.translate(dict.fromkeys(map(ord, signs)))


SCRIPTS: Final[Mapping[str, Callable[[Commands], Iterator[str]]]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
"""Each shell and the function that writes its script."""
