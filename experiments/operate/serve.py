"""`sprout serve`: run the hook in front of an LLM server."""

from experiments.artifacts import bundle_folder
from experiments.settings import Settings
from serving.processes.supervisor import serve
from serving.settings.gateway import GatewayConfig


class Serve(Settings, GatewayConfig):
    """Run the hook in front of an OpenAI-compatible Llama server.

    A policy is a bundle's folder, or wandb:ENTITY/PROJECT/NAME:ALIAS.
    """

    def cli_cmd(self) -> None:
        """Serve until interrupted."""
        settings = {name: getattr(self, name) for name in GatewayConfig.model_fields}
        settings["policy"] = [str(bundle_folder(policy)) for policy in self.policy]
        serve(GatewayConfig.model_validate(settings))
