"""A PostgreSQL server on loopback that tests can stop and start."""

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path

import psycopg

USER = "sprout"


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None if it is not installed."""
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


class Postgres:
    def __init__(self, folder: Path) -> None:
        bin_folder = programs()
        assert bin_folder is not None
        self._bin = bin_folder
        self._folder = folder
        self._data = folder / "data"
        # PostgreSQL refuses to run as root.
        self._run_as = {"user": "postgres"} if getpass.getuser() == "root" else {}
        if self._run_as:
            shutil.chown(folder, "postgres")
            for parent in folder.parents[:3]:
                if parent.owner() == "root" and str(parent).startswith("/tmp/"):
                    parent.chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", str(self._data), "-U", USER, "--auth=trust", "-N", "-E", "UTF8")
        self.start()
        self.url = f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url.removesuffix("postgres") + name

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        completed = subprocess.run(
            [str(self._bin / program), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env=os.environ | {"LC_ALL": "C"},
            timeout=60,
            **self._run_as,
        )
        assert completed.returncode == 0, completed.stderr
