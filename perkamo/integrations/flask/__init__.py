"""Flask: one client for each process, an outbox, browser tokens, webhooks, errors as answers.

    perkamo = Perkamo()

    def create_app() -> Flask:
        app = Flask(__name__)
        perkamo.init_app(app)
        return app

Needs the extra: ``pip install "perkamo[flask]"``.
"""

from importlib.util import find_spec

if find_spec("flask") is None:
    raise ModuleNotFoundError('perkamo.integrations.flask needs Flask: pip install "perkamo[flask]"', name="flask")

from perkamo.integrations.flask.extension import Perkamo

__all__ = ["Perkamo"]
