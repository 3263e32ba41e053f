"""The Kubernetes manifests fit the published schemas, each other, and perfkit's own command line."""

import kubernetes_validate
import pytest
import yaml
from samples import REPOSITORY

from perfkit.cli.run import run
from perfkit.config.settings import load_settings
from perfkit.loadgen.locust_process import check_locustfile

FOLDER = REPOSITORY / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
FILES = KUSTOMIZATION["resources"]
BY_FILE = {name: yaml.safe_load((FOLDER / name).read_text()) for name in FILES}
MASTER, WORKERS = (BY_FILE[name]["spec"]["template"]["spec"] for name in ("master.yaml", "workers.yaml"))


def options(pod):
    """What the command line of the pod's only container asks for, as perfkit understands it."""
    (container,) = pod["containers"]
    command, *words = container["args"]
    assert command == "run"
    return run.make_context("run", words).params


def test_every_manifest_is_listed():
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*FILES, "kustomization.yaml"}


@pytest.mark.parametrize("name", FILES)
def test_manifests_fit_the_published_schemas(name):
    assert kubernetes_validate.validate(BY_FILE[name], "1.31", strict=True)


def test_a_manifest_with_a_misspelling_would_be_found():
    broken = {**BY_FILE["service.yaml"], "spek": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_pods_mount_what_is_there():
    (made,) = KUSTOMIZATION["configMapGenerator"]
    claim = BY_FILE["results.yaml"]["metadata"]["name"]
    for pod in (MASTER, WORKERS):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
        assert volumes["scenario"]["configMap"]["name"] == made["name"]
    results = next(volume for volume in MASTER["volumes"] if volume["name"] == "results")
    assert results["persistentVolumeClaim"]["claimName"] == claim
    assert all((FOLDER / name).is_file() for name in made["files"])


def test_the_service_leads_to_the_master_and_workers_look_for_it_there():
    service = BY_FILE["service.yaml"]
    labels = BY_FILE["master.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert (
        not service["spec"]["selector"].items()
        <= BY_FILE["workers.yaml"]["spec"]["template"]["metadata"]["labels"].items()
    )
    (port,) = service["spec"]["ports"]
    (opened,) = MASTER["containers"][0]["ports"]
    assert port["targetPort"] == opened["name"]
    assert (
        port["port"]
        == opened["containerPort"]
        == options(WORKERS)["master_port"]
        == options(MASTER)["master_bind_port"]
    )
    assert options(WORKERS)["master_host"] == service["metadata"]["name"]


def test_the_command_lines_are_perfkits_and_agree():
    spec = BY_FILE["workers.yaml"]["spec"]
    assert (options(MASTER)["master"], options(WORKERS)["worker"]) == (True, True)
    assert options(MASTER)["expect_workers"] == spec["completions"] == spec["parallelism"]
    assert options(MASTER)["scenarios"] == options(WORKERS)["scenarios"]
    scenario = load_settings(FOLDER / "perfkit.toml").scenario(options(MASTER)["scenarios"][0])
    check_locustfile(scenario.locustfile)
    assert scenario.profile.is_open


@pytest.mark.parametrize("pod", [MASTER, WORKERS], ids=["master", "workers"])
def test_pods_may_do_little(pod):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["resources"].keys() == {"requests", "limits"}
    assert pod["automountServiceAccountToken"] is False
