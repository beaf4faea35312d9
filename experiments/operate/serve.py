"""`sprout serve`: the hook."""

from experiments.artifacts import bundle_folder
from experiments.settings import Settings
from serving.processes.supervisor import serve
from serving.settings.gateway import GatewayConfig


class Serve(Settings, GatewayConfig):
    """Put the hook in front of an OpenAI-compatible Llama server.

    A policy is a folder, or wandb:ENTITY/PROJECT/NAME:ALIAS.
    """

    def cli_cmd(self) -> None:
        """Serve until interrupted."""
        given = {name: getattr(self, name) for name in GatewayConfig.model_fields}
        given["policy"] = [str(bundle_folder(policy)) for policy in self.policy]
        serve(GatewayConfig.model_validate(given))
