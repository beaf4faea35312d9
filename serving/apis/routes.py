"""The routes whose requests can be steered."""

from collections.abc import Mapping

from serving.apis.api import Api
from serving.apis.chat import Chat
from serving.apis.completions import Completions
from serving.apis.messages import Messages
from serving.apis.responses import Responses

APIS: Mapping[str, Api] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
}
