"""Image, Compose file, proxy and Kustomize overlays are what their own tools take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web import Application, RouteDef

from support.serving import serving
from support.tools import ROOT, SERVER, run, tool
from tillstream_server import web
from tillstream_server.config import Config
from tillstream_server.events import Events

HOST = "head.example.com"
PIP = "make .venv/deploy-server has it"
OURS = "tests/support/deploy_server.sh has it"


def test_hadolint_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    hadolint = tool("hadolint", PIP)
    done = run([hadolint, "--failure-threshold=style", "Dockerfile"], folder=SERVER)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install flask\n")
    assert run([hadolint, "Dockerfile"], folder=tmp_path).returncode == 1


def ignored(path: Path) -> bool:
    """Whether .dockerignore keeps a path from the build: the last line that fits decides."""
    name, out = path.relative_to(ROOT).as_posix(), False
    for line in (SERVER / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        fits = fnmatch(name, pattern.replace("**/", "*")) or name.startswith(f"{pattern}/")
        if pattern and not pattern.startswith("#") and fits:
            out = not line.startswith("!")
    return out


def test_everything_that_the_image_is_made_of_is_there_and_sent() -> None:
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (SERVER / "Dockerfile").read_text(), re.MULTILINE)
    places = [ROOT / name for line in copies for name in line.split()]
    assert len(places) >= 4
    for place in places:
        files = [place] if place.is_file() else [place / "pyproject.toml", *(place / "src").rglob("*.py")]
        assert files
        assert [file for file in files if ignored(file)] == []
    assert ignored(ROOT / "README.md")
    assert ignored(ROOT / "agent" / "pyproject.toml")


def test_the_image_runs_as_nobody_in_particular_and_serves_where_it_says() -> None:
    text = (SERVER / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["8700:8700"]
    assert f"EXPOSE {Config().port}\n" in text
    assert text.rstrip().endswith('CMD ["serve", "--data", "/var/lib/tillstream-server/data", "--host", "0.0.0.0"]')


def composed() -> dict[str, Any]:
    """What Compose makes of its file."""
    compose = [tool("docker-compose", OURS)]
    yaml = pytest.importorskip("yaml", reason=PIP)
    done = run([*compose, "--profile", "backup", "config"], folder=SERVER, environment={"TILLSTREAM_HOST": HOST})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_compose_takes_its_file() -> None:
    services = composed()["services"]
    assert set(services) == {"server", "proxy", "backup"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    assert "ports" not in services["server"]
    assert services["proxy"]["environment"]["TILLSTREAM_HOST"] == HOST


def test_compose_says_what_has_to_be_named() -> None:
    done = run([tool("docker-compose", OURS), "config"], folder=SERVER, environment={"TILLSTREAM_HOST": ""})
    assert done.returncode != 0
    assert "name the host" in done.stderr


def test_caddy_takes_the_proxys_file_and_keeps_figures_inside() -> None:
    caddy = tool("caddy", OURS)
    file = ("--config", "Caddyfile", "--adapter", "caddyfile")
    for command in ("validate", "adapt"):
        done = run([caddy, command, *file], folder=SERVER, environment={"TILLSTREAM_HOST": HOST})
        assert done.returncode == 0, done.stderr
    assert '"dial":"server:8700"' in done.stdout
    assert done.stdout.index('"path":["/metrics"]') < done.stdout.index("reverse_proxy")


def overlays() -> list[str]:
    return sorted(place.name for place in (SERVER / "kustomize" / "overlays").iterdir())


def objects(overlay: str) -> Iterator[dict[str, Any]]:
    """What Kustomize makes of an overlay."""
    kubectl = tool("kubectl", "Kubernetes' own packages have it")
    yaml = pytest.importorskip("yaml", reason=PIP)
    done = run([kubectl, "kustomize", SERVER / "kustomize" / "overlays" / overlay])
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    yield from yaml.safe_load_all(done.stdout)


@pytest.mark.parametrize("overlay", overlays())
def test_kubernetes_own_schemas_take_every_object(overlay: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason=PIP)
    kinds = []
    for one in objects(overlay):
        validate.validate(one, validate.latest_version(), strict=True)
        kinds.append(one["kind"])
    assert {"Namespace", "StatefulSet", "Service", "NetworkPolicy", "CronJob"} <= set(kinds)


def test_the_schemas_would_not_take_what_is_misspelt() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason=PIP)
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, validate.latest_version(), strict=True)


def pods(overlay: str) -> Iterator[dict[str, Any]]:
    for one in objects(overlay):
        if one["kind"] == "StatefulSet":
            yield one["spec"]["template"]["spec"]
        elif one["kind"] == "CronJob":
            yield one["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", overlays())
def test_every_pod_keeps_to_the_restricted_standard(overlay: str) -> None:
    """Kubernetes' Pod Security Standards, of which the namespaces enforce the strictest."""
    found = list(pods(overlay))
    assert len(found) == 2
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["image"] == "tillstream-server:0.1.0"
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("overlay", overlays())
def test_names_and_labels_meet(overlay: str) -> None:
    """One replica, reached by the service, and a backup that mounts its volume and goes where it is."""
    found = {one["kind"]: one for one in objects(overlay) if one["kind"] != "PersistentVolumeClaim"}
    server, job = found["StatefulSet"], found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert server["spec"]["replicas"] == 1
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    (term,) = job["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    (claim,) = server["spec"]["volumeClaimTemplates"]
    mounted = job["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert mounted == f"{claim['metadata']['name']}-{server['metadata']['name']}-0"


def test_the_ingress_leaves_figures_inside() -> None:
    (ingress,) = (one for one in objects("production") if one["kind"] == "Ingress")
    paths = [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]]
    assert "/till" in paths
    assert not any("/metrics".startswith(path) for path in paths if path != "/")


async def test_the_ingress_leads_to_everything_but_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page of the console, too: each path that the server has is one that the Ingress names."""
    served: set[str] = set()
    make = web.application

    def application(routes: Iterable[RouteDef], events: Events) -> Application:
        made = make(routes, events)
        served.update(resource.canonical for resource in made.router.resources())
        return made

    monkeypatch.setattr(web, "application", application)
    async with serving(tmp_path / "data"):
        pass
    (ingress,) = (one for one in objects("production") if one["kind"] == "Ingress")
    paths = [(path["path"], path["pathType"]) for path in ingress["spec"]["rules"][0]["http"]["paths"]]
    lost = {at for at in served if not any(leads(path, kind, at) for path, kind in paths)}
    assert "/sales/stream" in served
    assert lost == {"/metrics"}


def leads(path: str, kind: str, to: str) -> bool:
    """Whether a path of an Ingress leads to one of the server's, by whole elements as Kubernetes matches."""
    return to == path or (kind == "Prefix" and to.startswith(f"{path.rstrip('/')}/"))
