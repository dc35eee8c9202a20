"""The served page: responses and refusals, many readers, a real browser that follows a run."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from browser import Browser, find_browser
from jsonl import write_jsonl
from run_folders import completion_row, rl_line, rl_run, write_stage

from fastrl.cli.main import main
from fastrl.report.page import serve
from fastrl.report.page.serve import FollowedPage, Server


@contextmanager
def served(folder, max_rows=100):
    with Server(FollowedPage(folder, max_rows), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def add_step(folder, step):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(rl_line(step)) + "\n")


def test_the_page_and_newer_data(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "MIN_READ_INTERVAL_S", 0.0)
    folder = rl_run(tmp_path / "run")
    with served(folder) as server:
        answer, page = ask(server, "/")
        assert answer.status == 200 and b"connect-src 'self'" in page and b"run - fastrl report" in page
        answer, body = ask(server, "/data?since=")
        first = json.loads(body)
        assert first["data"]["stages"][0]["curves"]["steps"] == [1, 2, 3]
        assert f'data-version="{first["version"]}"'.encode() in page
        answer, body = ask(server, f"/data?since={first['version']}")
        assert (answer.status, body) == (204, b"")
        add_step(folder, 4)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "rew')  # half a line
        answer, body = ask(server, f"/data?since={first['version']}")
        assert json.loads(body)["data"]["stages"][0]["curves"]["steps"] == [1, 2, 3, 4]


def test_other_names_paths_and_methods_are_refused(tmp_path):
    with served(rl_run(tmp_path / "run")) as server:
        port = server.server_port
        assert server.server_address[0] == "127.0.0.1"
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
            for path in ("/", "/data?since="):
                answer, body = ask(server, path, host=host)
                assert answer.status == 403 and b"reward" not in body
        assert ask(server, "/", host=f"localhost:{port}")[0].status == 200
        for path in ("/../metrics.jsonl", "/metrics.jsonl", "/data/"):
            assert ask(server, path)[0].status == 404
        assert ask(server, "/", method="POST")[0].status == 501
        headers = ask(server, "/data?since=")[0].headers
        assert headers["Access-Control-Allow-Origin"] is None
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_many_readers_cost_one_reading(tmp_path, monkeypatch):
    readings = []
    real = serve.report_data
    monkeypatch.setattr(serve, "report_data", lambda *asked: readings.append(1) or real(*asked))
    folder = rl_run(tmp_path / "run")
    with served(folder) as server:
        answers = []
        readers = [
            threading.Thread(target=lambda: answers.append(ask(server, "/data?since=")[1])) for _ in range(40)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert len(answers) == 40 and len(set(answers)) == 1 and len(readings) == 1
        idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(20)]
        assert ask(server, "/")[0].status == 200  # those who say nothing hold nobody up
        for each in idle:
            each.close()


def test_what_can_not_be_served(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--serve"]) == 2
    assert "[report] RUN: expected a folder with config.yaml" in capsys.readouterr().err
    folder = str(rl_run(tmp_path / "run"))
    assert main(["report", folder, "--serve", "--out", "x.html"]) == 2
    assert "[report] out: expected null, since --serve is set, got 'x.html'" in capsys.readouterr().err
    assert main(["report", folder, "--port", "8000"]) == 2
    assert "[report] port: expected 0, since --serve is not set, got 8000" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["report", folder, "--serve", "--port", str(port)]) == 2
    assert f"[report] port: expected a free one, got {port}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def until(browser, script):
    """Wait until the expression is true on the page."""
    end = time.monotonic() + 60
    while not browser.run(script):
        assert time.monotonic() < end, script
        time.sleep(0.1)


@pytest.mark.process
def test_a_browser_follows_a_run_without_reload(browser, tmp_path):
    folder = rl_run(tmp_path / "run")
    reward = "document.querySelector('figure[aria-label^=\"reward:\"]').ariaLabel"
    with served(folder) as server:
        browser.open(server.address)
        browser.run("window.kept = 'this page'")
        assert browser.run(reward) == "reward: 0.1 \u2192 0.3"
        browser.press("r")  # the right ones
        count = browser.run("document.querySelector('output').textContent")
        assert count == "12 of 24"
        browser.run("document.querySelector('#picker input[value=\"kl\"]') === null")
        browser.click("#picker summary")
        browser.click("#picker input[value='engine/policy/requests']")
        add_step(folder, 4)
        rows = [completion_row(i, 0) for i in range(8)]
        write_jsonl(folder / "completions/step-000004.jsonl", rows)
        until(browser, f"{reward} === 'reward: 0.1 \u2192 0.4'")
        assert browser.run("window.kept") == "this page"
        # a reader's place is kept: filters, chosen curves, open lists; new rows wait for a click
        assert browser.run("document.querySelector('output').textContent") == count
        assert browser.run("document.querySelector('#picker').open")
        assert browser.run(
            "document.querySelector('#picker input[value=\"engine/policy/requests\"]').checked"
        )
        until(browser, "document.querySelector('.fresh')?.textContent === 'Show 8 newer'")
        browser.click(".fresh")
        assert browser.run("document.querySelector('output').textContent") == "32 of 32"
        assert browser.complaints() == []
        assert {url.split("?")[0] for url in browser.requests()} == {
            server.address,
            f"{server.address}data",
        }


@pytest.mark.process
def test_a_stage_that_begins_gets_its_tab(browser, tmp_path):
    (tmp_path / "pipeline.yaml").write_text("sft: {stage: sft}\nrl: {stage: rl}\n")
    with served(tmp_path) as server:
        browser.open(server.address)
        assert "No stage of this pipeline has begun" in browser.run("document.body.textContent")
        write_stage(tmp_path / "sft", {"stage": "sft"}, [{"step": 1, "loss": 0.5}])
        until(browser, "document.querySelector('#summary h2')?.textContent.startsWith('sft')")
        rl_run(tmp_path / "rl")
        until(browser, "document.querySelectorAll('[role=tab]').length === 2")
        assert browser.run("document.querySelector('[aria-selected=true]').value") == "sft"
        state = "document.querySelector('#following').textContent"
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.call("Network.emulateNetworkConditions", offline=True, **network)
        until(browser, f"{state} === 'no answer; trying again'")
        browser.call("Network.emulateNetworkConditions", offline=False, **network)
        until(browser, f"{state} === 'following'")
