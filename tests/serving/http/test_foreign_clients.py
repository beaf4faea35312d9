"""Clients of other languages and vendors, through the gateway to a canned upstream."""

import gzip
import json
import shutil
import subprocess

import anthropic
import openai
import pytest

from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import CHAT, records, waited
from tests.serving.upstream import served
from tests.serving.wire import answer, scripted

ROUTE = "/v1/chat/completions"
JAVA = """
import java.net.URI;
import java.net.http.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
            HttpResponse<String> got = client.send(request, HttpResponse.BodyHandlers.ofString());
            String directive = got.headers().firstValue("x-sprout-directive").orElse("");
            System.out.println(got.statusCode() + " " + directive + " " + got.body());
        }
    }
}
"""
NODE = """
const [url, body] = process.argv.slice(1);
for (const streamed of [false, true]) {
  const answer = await fetch(url, {method: "POST", headers: {"content-type": "application/json"},
                                   body: JSON.stringify({...JSON.parse(body), stream: streamed})});
  const text = await answer.text();
  console.log(JSON.stringify([answer.status, answer.headers.get("x-sprout-directive"), text]));
}
"""


def program(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed here")
    return path


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_java_client_that_offers_http_2_is_served_with_its_bodies(upstream, gateway, tmp_path):
    java = program("java")
    (tmp_path / "Client.java").write_text(JAVA)
    body = json.dumps(CHAT)
    lines = run(java, str(tmp_path / "Client.java"), gateway + ROUTE, body).splitlines()
    assert [line.split()[:2] for line in lines] == [["200", "very_brief"]] * 3
    assert all("Hello" in line for line in lines)
    assert b"upgrade" not in upstream.received[0][2]
    assert json.loads(upstream.received[0][3])["max_tokens"] == CHAT["max_tokens"]


def test_nodes_fetch_gets_whole_and_streamed_answers(gateway):
    program("node")
    output = run("node", "--input-type=module", "-e", NODE, gateway + ROUTE, json.dumps(CHAT))
    whole, streamed = map(json.loads, output.splitlines())
    assert whole[:2] == streamed[:2] == [200, "very_brief"]
    assert json.loads(whole[2])["choices"][0]["message"]["content"] == "Hello"
    assert streamed[2].rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
@pytest.mark.parametrize("streamed", [False, True])
def test_curl_is_served_with_every_version_that_it_asks_for(gateway, version, streamed):
    program("curl")
    body = json.dumps(CHAT | {"stream": streamed})
    url = gateway + ROUTE
    head = run("curl", "-sSi", version, "-H", "content-type: application/json", "-d", body, url)
    status, _, rest = head.partition("\n")
    assert status.split()[1] == "200"
    assert "data: [DONE]" in rest if streamed else '"Hello"' in rest


def test_curl_decompresses_an_answer_of_which_the_usage_is_known(made_hook):
    program("curl")
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    zipped = gzip.compress(json.dumps({"choices": [], "usage": usage}).encode())
    with (
        scripted(answer(zipped, "Content-Encoding: gzip")) as upstream,
        served(Gateway(made_hook, Relay(upstream.url))) as url,
    ):
        flags = ("-sS", "--compressed", "-H", "content-type: application/json")
        output = run("curl", *flags, "-d", json.dumps(CHAT), url + ROUTE)
        assert json.loads(output)["usage"] == usage
        assert ("accept-encoding", "deflate, gzip, br, zstd") in upstream.fields()
        assert waited(lambda: records(made_hook))
    assert records(made_hook)[0]["completion_tokens"] == 4


def test_anthropics_sdk_gets_steered_messages(upstream, made_hook, gateway):
    client = anthropic.Anthropic(base_url=gateway, api_key="sk-user", max_retries=0)
    arguments = {"model": "made", "max_tokens": 64, "messages": CHAT["messages"]}
    raw = client.messages.with_raw_response.create(**arguments, system="Be kind.")
    assert raw.headers["x-sprout-directive"] == "very_brief"
    assert raw.parse().content[0].text == "Hello"
    sent = json.loads(upstream.received[-1][3])
    assert sent["system"] == "Be kind. Always answer very briefly."
    assert upstream.received[-1][2][b"authorization"] == b"Bearer sk-user"
    with client.messages.stream(**arguments) as stream:
        assert "".join(stream.text_stream) == "Hello"
        usage = stream.get_final_message().usage
    assert (usage.input_tokens, usage.output_tokens) == (3, 4)
    ended = [(r["outcome"], r["completion_tokens"], r["route"]) for r in records(made_hook)]
    assert ended == [("completed", 4, "/v1/messages")] * 2


def test_the_openai_sdks_tools_and_formats_reach_the_server_unchanged(upstream, gateway):
    client = openai.OpenAI(base_url=f"{gateway}/v1", api_key="sk", max_retries=0)
    schema = {"name": "a", "schema": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    text = {"format": {"type": "json_schema", **schema}}
    chat = {"model": "made", "messages": CHAT["messages"]}
    response = {"model": "made", "input": "Hi"}
    calls = [
        (client.chat.completions, chat | {"tools": [tool]}),
        (client.chat.completions, chat | {"tools": [tool], "stream": True}),
        (
            client.chat.completions,
            chat | {"response_format": {"type": "json_schema", "json_schema": schema}},
        ),
        (client.chat.completions, chat | {"extra_body": {"guided_regex": "a|b"}}),
        (client.responses, response | {"text": text}),
        (client.responses, response | {"tools": [{"type": "web_search"}]}),
    ]
    for resource, arguments in calls:
        raw = resource.with_raw_response.create(**arguments)
        assert raw.headers["x-sprout-reason"] == "format"
        extra = arguments.pop("extra_body", {})
        assert json.loads(upstream.received[-1][3]) == arguments | extra
