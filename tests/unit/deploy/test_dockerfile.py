"""Properties of the image: no root user, no compiler, and signals that reach the server directly."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from darkroom.models.runtime.memory import MALLOC_CONF

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
STAGES: dict[str, tuple[str, str]] = {
    name: (parent, text)
    for parent, name, text in re.findall(
        r"^FROM (\S+) AS (\S+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
    )
}
TARGETS = ("server", "gpu")
IGNORE = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file into the build: as in Docker, the last matching rule decides."""
    is_in = True
    names = [f"/{name}" for name in (path, *Path(path).parents)]
    for rule in IGNORE:
        pattern = rule.lstrip("!")
        anchored = "*" + pattern[2:] if pattern.startswith("**") else "/" + pattern
        if any(fnmatch.fnmatch(name, anchored) for name in names):
            is_in = rule.startswith("!")
    return is_in


def image(target: str) -> str:
    """The text of an image: its stage after the stages that it starts from."""
    parent, text = STAGES[target]
    return (image(parent) if parent in STAGES else "") + text


def folders(target: str) -> dict[str, str]:
    """The folders of an image by the stage that they are copied from."""
    return dict(re.findall(r"^COPY --from=(\S+) (\S+) \2$", image(target), re.MULTILINE))


@pytest.mark.parametrize("target", TARGETS)
def test_the_server_is_a_fixed_user_without_rights(target: str) -> None:
    assert re.findall(r"^USER (.*)$", image(target), re.MULTILINE) == ["10001:10001"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_signal_reaches_the_server_itself(target: str) -> None:
    assert 'ENTRYPOINT ["darkroom"]' in image(target)
    assert 'CMD ["serve"]' in image(target)
    assert "STOPSIGNAL SIGTERM" in image(target)
    assert "HEALTHCHECK" in image(target)


@pytest.mark.parametrize("target", TARGETS)
def test_the_last_stages_install_nothing(target: str) -> None:
    assert not re.search(r"pip|apt-get", image(target))


def test_the_one_stage_that_compiles_is_part_of_no_image_and_hands_over_the_application_alone() -> None:
    compiler = re.compile(r"build-essential|\bgcc\b|g\+\+|clang")
    assert {name for name, (_, text) in STAGES.items() if compiler.search(text)} == {"app"}
    assert not any(compiler.search(image(target)) for target in TARGETS)
    assert set(re.findall(r"--from=app (\S+)", DOCKERFILE)) == {"/opt/app"}


def test_the_image_is_compiled() -> None:
    assert re.search(r"DARKROOM_COMPILED=1 .*pip .*--target /opt/app \.", DOCKERFILE.replace("\\\n", " "))


def test_a_build_that_names_no_target_makes_the_server() -> None:
    assert list(STAGES)[-1] == "server"


def test_one_target_is_the_server_that_starts_as_tensorflow_servings_image_does() -> None:
    serving = STAGES["tensorflow-model-server"][1]
    assert folders("tensorflow-model-server") == folders("server")
    assert 'ENTRYPOINT ["tensorflow_model_server"]\nCMD []\n' in serving
    for words in ("MODEL_NAME=model ", "MODEL_BASE_PATH=/models ", "DARKROOM_PORT=8501\n", "EXPOSE 8501\n"):
        assert words in serving
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert commands["tensorflow_model_server"] == "darkroom.service.cli.model_server:main"


def test_both_images_differ_in_their_packages_alone() -> None:
    app = {"models": "/models", "app": "/opt/app", "jemalloc": "/opt/jemalloc"}
    assert folders("server") == {"trimmed": "/opt/darkroom", **app}
    assert folders("gpu") == {"gpu-trimmed": "/opt/darkroom", **app}
    for stage, name in (("trimmed", "serve"), ("gpu-trimmed", "gpu")):
        assert f"-r /build/{name}.txt -r /build/stores.txt\n" in image(stage)
        assert "/build/trim.py && " in image(stage)
        assert "/build/warm_up.py" in image(stage)
        assert "/app.pth" in image(stage)


@pytest.mark.parametrize("target", TARGETS)
def test_both_images_preload_jemalloc_as_the_server_wants_it(target: str) -> None:
    (variables,) = re.findall(r"^ENV (LD_PRELOAD=.*?[^\\])$", image(target), re.MULTILINE | re.DOTALL)
    preload, conf = variables.replace("\\\n", " ").split()
    assert preload == "LD_PRELOAD=/opt/jemalloc/libjemalloc.so.2"
    assert conf == f"MALLOC_CONF={MALLOC_CONF}"
    assert "cp -L /usr/lib/*/libjemalloc.so.2 /opt/jemalloc/\n" in STAGES["jemalloc"][1]


def test_make_serve_preloads_jemalloc_where_it_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "exec $(WITH_JEMALLOC) $$server serve" in makefile
    assert f"JEMALLOC_CONF := {MALLOC_CONF}\n" in makefile


def test_the_cache_s_folder_is_the_servers_alone() -> None:
    assert "RUN install -d -o 10001 -g 10001 -m 0700 /var/cache/darkroom\n" in image("server")


def test_the_application_is_installed_whole(tmp_path: Path) -> None:
    """The wheel has every file of the folders that the Dockerfile copies, pages and templates included."""
    copied = [
        folder
        for folder in re.findall(r"^COPY (\w+) \./\1$", STAGES["app"][1], re.MULTILINE)
        if folder != "requirements"
    ]
    for name in [*copied, "requirements"]:
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    links = {link.name: f"darkroom/{link.name}" for link in (tmp_path / "darkroom").iterdir() if link.is_symlink()}
    wanted = {
        f"{links.get(name, name)}/{path.relative_to(tmp_path / name)}"
        for name in copied
        for path in (tmp_path / name).rglob("*")
        if path.is_file()
    }
    build = "import setuptools.build_meta; print(setuptools.build_meta.build_wheel('out'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert {name for name in packed.namelist() if ".dist-info/" not in name} == wanted
    assert {"darkroom", "models", "service", "batching"} == set(copied)


def test_every_package_is_pinned_by_its_hash_or_is_this_project() -> None:
    installs = re.findall(r"pip --python \S+ install (.*)", DOCKERFILE.replace("\\\n", " "))
    assert len(installs) == 5
    assert all("--require-hashes" in text or "--no-deps" in text for text in installs)


def test_what_the_image_is_made_of_is_sent_to_the_build() -> None:
    copies = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    sources = [word for line in copies for word in line.split()[:-1]]
    assert {
        "pyproject.toml",
        "models",
        "service",
        "requirements/serve.txt",
        "requirements/gpu.txt",
        "requirements/stores.txt",
        "deploy/trim.py",
    } <= set(sources)
    for source in sources:
        (path,) = list(ROOT.glob(source))[:1]
        files = [path] if path.is_file() else list(path.rglob("*.py")) or list(path.iterdir())
        assert all(is_sent(str(file.relative_to(ROOT))) for file in files)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "tests/images/chelsea.jpg",
        "model/digits/1/saved_model.pb",
        ".env",
        "docs/design.md",
    ],
)
def test_nothing_else_is_sent_to_the_build(path: str) -> None:
    assert not is_sent(path)


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        is_ready = self.path == "/v2/health/ready"
        self.send_response(self.status if is_ready else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_health_check_asks_the_default_port_where_kubernetes_took_the_variable(tmp_path: Path) -> None:
    ask = "import healthcheck as h; h.connect = lambda port: exit(port - 8000); h.is_ready()"
    for port, asked in (("tcp://10.0.0.1:8500", 500), ("", 500), ("8001", 1)):
        environment = {"DARKROOM_PORT": port, "PYTHONPATH": str(ROOT / "deploy"), "PYTHONPYCACHEPREFIX": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", ask], env=environment, check=False, timeout=60)
        assert done.returncode == asked % 256


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_is_readiness(status: int | None, code: int) -> None:
    handler = type("Handler", (Answering,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        environment = {"DARKROOM_PORT": str(server.server_port)}
        if status is None:
            server.server_close()
        else:
            thread = Thread(target=server.handle_request)
            thread.start()
        command = [sys.executable, "-I", "-S", str(ROOT / "deploy/healthcheck.py")]
        assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == code
        if status is not None:
            thread.join()


def test_hadolint_finds_no_fault() -> None:
    hadolint = ROOT / ".bench/release/bin/hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (make .bench/release.done)")
    command = [str(hadolint), "--config", "deploy/.hadolint.yaml", "deploy/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
