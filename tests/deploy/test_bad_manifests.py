"""What is wrong with a manifest is noticed: good renderings, each spoilt in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.manifests.checks import CHECKS
from support.manifests.network import arrows_of_picture, flow_problems, flows_in
from support.manifests.rendering import COMPONENTS, OVERLAYS, NotRenderedError, kubectl, rendered, text_of
from support.manifests.resources import Manifests
from support.manifests.schemas import CUSTOM
from support.manifests.watching import State, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def whole(overlay: str = "production") -> Manifests:
    return Manifests(rendered(overlay, COMPONENTS))


def find(m: Manifests, kind: str, name: str) -> Any:
    found = m.find(kind, name)
    assert found is not None
    return found


def spec(m: Manifests, kind: str, name: str) -> Any:
    return find(m, kind, name)["spec"]


def pod(m: Manifests, name: str = "keypost-ca") -> Any:
    return spec(m, "Deployment", name)["template"]["spec"]


def container(m: Manifests, name: str = "keypost-ca") -> Any:
    return pod(m, name)["containers"][0]


def settings(m: Manifests, service: str) -> Any:
    (found,) = [
        each["data"] for each in m.of_kind("ConfigMap") if each["metadata"]["name"].startswith(f"{service}-settings-")
    ]
    return found


def job(m: Manifests) -> Any:
    return spec(m, "Job", "keypost-migrations")["template"]["spec"]["containers"][0]


def rule(m: Manifests) -> Any:
    return spec(m, "PrometheusRule", "keypost")["groups"][0]["rules"][0]


def drop(m: Manifests, kind: str, name: str) -> None:
    m.resources.remove(find(m, kind, name))


def add(m: Manifests, **resource: Any) -> None:
    m.resources.append({"metadata": {"name": "extra", "namespace": "keypost"}, **resource})


BAD: dict[str, tuple[str, Callable[[Manifests], Any], str]] = {
    "a field misspelt": (
        "schemas",
        lambda m: container(m).update(readynessProbe={}),
        "readynessProbe",
    ),
    "a value of another type": (
        "schemas",
        lambda m: spec(m, "HorizontalPodAutoscaler", "keypost-ca").update(maxReplicas="six"),
        "maxReplicas",
    ),
    "a kind in no version": (
        "schemas",
        lambda m: add(m, apiVersion="autoscaling/v2beta2", kind="HorizontalPodAutoscaler", spec={}),
        "autoscaling/v2beta2",
    ),
    "a custom resource that is not on the list": (
        "schemas",
        lambda m: add(m, apiVersion="cert-manager.io/v1", kind="ClusterIssuer", spec={}),
        "ClusterIssuer",
    ),
    "a custom resource misspelt": (
        "schemas",
        lambda m: spec(m, "GRPCRoute", "keypost-ca")["rules"][0].update(backendRef=[]),
        "backendRef",
    ),
    "an enumerated value that there is not": (
        "schemas",
        lambda m: spec(m, "Certificate", "keypost-ca-internal")["privateKey"].update(rotationPolicy="Sometimes"),
        "Sometimes",
    ),
    "a strategy that there is not": (
        "values",
        lambda m: spec(m, "Deployment", "keypost-ca")["strategy"].update(type="RollingUpdat"),
        "RollingUpdat is none of",
    ),
    "a way to spread that there is not": (
        "values",
        lambda m: pod(m)["topologySpreadConstraints"][1].update(whenUnsatisfiable="DoNotSchedul"),
        "DoNotSchedul is none of",
    ),
    "a way to evict that there is not": (
        "values",
        lambda m: spec(m, "PodDisruptionBudget", "keypost-ca").update(unhealthyPodEvictionPolicy="AlwaysAlow"),
        "AlwaysAlow is none of",
    ),
    "a way to restart that there is not": (
        "values",
        lambda m: spec(m, "Job", "keypost-migrations")["template"]["spec"].update(restartPolicy="OnFailur"),
        "OnFailur is none of",
    ),
    "a way to restart that a Job may not have": (
        "values",
        lambda m: spec(m, "Job", "keypost-migrations")["template"]["spec"].update(restartPolicy="Always"),
        "Always is none of",
    ),
    "a metric's type that there is not": (
        "values",
        lambda m: spec(m, "HorizontalPodAutoscaler", "keypost-ca")["metrics"][0].update(type="resource"),
        "spec.metrics.type: resource",
    ),
    "a protocol that there is not": (
        "values",
        lambda m: spec(m, "NetworkPolicy", "to-cache")["egress"][0]["ports"][0].update(protocol="tcp"),
        "tcp is none of",
    ),
    "a direction that there is not": (
        "values",
        lambda m: spec(m, "NetworkPolicy", "default-deny").update(policyTypes=["Ingress", "Egres"]),
        "Egres is none of",
    ),
    "a word whose field nobody knows": (
        "values",
        lambda m: container(m).update(imagePullPolicy="Allways"),
        "containers.imagePullPolicy: nothing here says",
    ),
    "a setting that there is not": (
        "settings",
        lambda m: settings(m, "keypost-ca").update(KEYPOST_CA_REALMS="example.org"),
        "KEYPOST_CA_REALMS: there is no such setting",
    ),
    "a setting that is missing": (
        "settings",
        lambda m: settings(m, "keypost-delivery").pop("KEYPOST_DELIVERY_DIRECTORY"),
        "KEYPOST_DELIVERY_DIRECTORY: must be set",
    ),
    "a setting of a value that is none": (
        "settings",
        lambda m: settings(m, "keypost-directory").update(KEYPOST_DIRECTORY_PUBLIC_LISTEN="0.0.0.0"),  # noqa: S104
        "KEYPOST_DIRECTORY_PUBLIC_LISTEN",
    ),
    "a file that is mounted elsewhere": (
        "settings",
        lambda m: container(m)["volumeMounts"][0].update(mountPath="/etc/keypost/tls/other"),
        "KEYPOST_CA_TLS_CERTIFICATE",
    ),
    "a folder that is not mounted": (
        "settings",
        lambda m: settings(m, "keypost-ca").update(KEYPOST_CA_REALM_FOLDER="/etc/keypost/realms"),
        "/etc/keypost/realms is not there",
    ),
    "a key that the Secret does not have": (
        "settings",
        lambda m: container(m)["env"][0]["valueFrom"]["secretKeyRef"].update(key="uri"),
        "has no uri",
    ),
    "a volume that there is not": (
        "settings",
        lambda m: pod(m)["volumes"].pop(0),
        "there is no volume",
    ),
    "a variable whose prefix is none": (
        "variables",
        lambda m: settings(m, "keypost-ca").update(KEYPOST_CAA_REALM="example.org"),
        "keypost-ca: keypost-ca does not read KEYPOST_CAA_REALM",
    ),
    "a variable of another service": (
        "variables",
        lambda m: container(m)["env"].append(
            {"name": "KEYPOST_DELIVERY_HOOK_URL", "value": "https://push.example.org"}
        ),
        "keypost-ca: keypost-ca does not read KEYPOST_DELIVERY_HOOK_URL",
    ),
    "a variable that is none of ours": (
        "variables",
        lambda m: container(m)["env"].append({"name": "KEYPSOT_CA_REALM", "value": "example.org"}),
        "keypost-ca: keypost-ca does not read KEYPSOT_CA_REALM",
    ),
    "a variable of the Job misspelt": (
        "variables",
        lambda m: job(m)["env"].append({"name": "KEYPOST_CA_DATABSE_TIMEOUT", "value": "5"}),
        "keypost-migrations: keypost-ca does not read KEYPOST_CA_DATABSE_TIMEOUT",
    ),
    "a variable of the Job that only the service reads": (
        "variables",
        lambda m: job(m)["env"].append({"name": "KEYPOST_CA_REALM", "value": "example.org"}),
        "keypost-migrations: keypost-ca does not read KEYPOST_CA_REALM",
    ),
    "a variable of what runs before a service": (
        "variables",
        lambda m: pod(m).update(initContainers=[{**job(m), "env": [{"name": "KEYPOST_CA_DATABSE", "value": ""}]}]),
        "keypost-ca: keypost-ca does not read KEYPOST_CA_DATABSE",
    ),
    "a program that there is not": (
        "commands",
        lambda m: container(m).update(command=["keypost-authority", "serve"]),
        "no program keypost-authority",
    ),
    "a command that there is not": (
        "commands",
        lambda m: container(m, "keypost-delivery").update(command=["keypost-delivery", "run"]),
        "no command run",
    ),
    "an option that there is not": (
        "commands",
        lambda m: job(m)["command"].append("--force"),
        "--force",
    ),
    "migrations without a database": (
        "commands",
        lambda m: job(m).update(env=[]),
        "database",
    ),
    "a port that nothing listens on": (
        "listening",
        lambda m: container(m)["ports"][0].update(containerPort=8080),
        "8080",
    ),
    "an internal port that is not said": (
        "listening",
        lambda m: settings(m, "keypost-ca").pop("KEYPOST_CA_INTERNAL_LISTEN"),
        "internal",
    ),
    "a service that calls a name that there is not": (
        "targets",
        lambda m: settings(m, "keypost-directory").update(KEYPOST_DIRECTORY_CA="dns:///keypost-ca-inner:8444"),
        "keypost-ca-inner:8444",
    ),
    "a service that calls a port that is not there": (
        "targets",
        lambda m: settings(m, "keypost-directory").update(KEYPOST_DIRECTORY_CA="dns:///keypost-ca-internal:8443"),
        "keypost-ca-internal:8443",
    ),
    "one address for all replicas": (
        "targets",
        lambda m: spec(m, "Service", "keypost-directory-internal").pop("clusterIP"),
        "one address for all replicas",
    ),
    "killed while it drains": (
        "drain",
        lambda m: pod(m).update(terminationGracePeriodSeconds=30),
        "34 s",
    ),
    "a drain that is longer than before": (
        "drain",
        lambda m: settings(m, "keypost-delivery").update(KEYPOST_DELIVERY_DRAIN_SECONDS="60"),
        "keypost-delivery",
    ),
    "a service of another realm": (
        "realm",
        lambda m: settings(m, "keypost-delivery").update(KEYPOST_DELIVERY_REALM="example.com"),
        "keypost-delivery",
    ),
    "a resource that names no namespace": (
        "namespaces",
        lambda m: find(m, "NetworkPolicy", "to-database")["metadata"].pop("namespace"),
        "NetworkPolicy to-database: is in the namespace None",
    ),
    "a resource of another namespace": (
        "namespaces",
        lambda m: find(m, "ConfigMap", "keypost-dashboard")["metadata"].update(namespace="monitoring"),
        "ConfigMap keypost-dashboard: is in the namespace monitoring",
    ),
    "another namespace than all resources are in": (
        "namespaces",
        lambda m: find(m, "Namespace", "keypost")["metadata"].update(name="keyposts"),
        "Namespace keyposts",
    ),
    "a Service that selects nothing": (
        "selectors",
        lambda m: spec(m, "Service", "keypost-ca")["selector"].update({"app.kubernetes.io/name": "ca"}),
        "Service keypost-ca",
    ),
    "a Service that selects everything": (
        "selectors",
        lambda m: spec(m, "Service", "keypost-ca").update(selector={"app.kubernetes.io/part-of": "keypost"}),
        "Service keypost-ca",
    ),
    "a budget that selects nothing": (
        "selectors",
        lambda m: spec(m, "PodDisruptionBudget", "keypost-ca")["selector"]["matchLabels"].update({"tier": "one"}),
        "PodDisruptionBudget keypost-ca",
    ),
    "a policy that names pods that there are not": (
        "selectors",
        lambda m: spec(m, "NetworkPolicy", "to-dns")["podSelector"]["matchExpressions"][0]["values"].append("keypost"),
        "no pods keypost",
    ),
    "a Deployment that does not select its own": (
        "selectors",
        lambda m: spec(m, "Deployment", "keypost-ca")["selector"]["matchLabels"].update({"tier": "one"}),
        "does not select its own pods",
    ),
    "an autoscaler of nothing": (
        "selectors",
        lambda m: spec(m, "HorizontalPodAutoscaler", "keypost-ca")["scaleTargetRef"].update(name="ca"),
        "no Deployment ca",
    ),
    "pods that are not spread": (
        "selectors",
        lambda m: pod(m).pop("topologySpreadConstraints"),
        "not spread",
    ),
    "pods that are spread by what they do not have": (
        "selectors",
        lambda m: pod(m)["topologySpreadConstraints"][0]["matchLabelKeys"].append("version"),
        "version",
    ),
    "no autoscaler": (
        "kept_up",
        lambda m: drop(m, "HorizontalPodAutoscaler", "keypost-ca"),
        "no autoscaler",
    ),
    "replicas beside an autoscaler": (
        "kept_up",
        lambda m: spec(m, "Deployment", "keypost-ca").update(replicas=2),
        "undo",
    ),
    "no budget": (
        "kept_up",
        lambda m: drop(m, "PodDisruptionBudget", "keypost-delivery"),
        "keypost-delivery: more than one",
    ),
    "a Service for a port that is not there": (
        "ports",
        lambda m: spec(m, "Service", "keypost-ca")["ports"][0].update(targetPort="web"),
        "no port web",
    ),
    "a headless Service that maps ports": (
        "ports",
        lambda m: spec(m, "Service", "keypost-ca-internal")["ports"][0].update(port=443),
        "straight to port 8444",
    ),
    "a Secret that nobody makes": (
        "given",
        lambda m: pod(m)["volumes"][0]["secret"].update(secretName="keypost-tls"),
        "Secret keypost-tls",
    ),
    "an account that there is not": (
        "given",
        lambda m: pod(m).update(serviceAccountName="ca"),
        "ServiceAccount ca",
    ),
    "a ConfigMap that nobody takes": (
        "superfluous",
        lambda m: add(m, apiVersion="v1", kind="ConfigMap", data={}),
        "ConfigMap extra",
    ),
    "a namespace without the standard": (
        "restricted",
        lambda m: find(m, "Namespace", "keypost")["metadata"].update(labels={}),
        "namespace",
    ),
    "root": (
        "restricted",
        lambda m: pod(m)["securityContext"].update(runAsUser=0),
        "root",
    ),
    "privilege escalation": (
        "restricted",
        lambda m: container(m)["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation",
    ),
    "capabilities": (
        "restricted",
        lambda m: job(m)["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        "keypost-migrations: it keeps capabilities",
    ),
    "a seccomp profile that there is not": (
        "restricted",
        lambda m: pod(m)["securityContext"].update(seccompProfile={"type": "RuntimeDefalt"}),
        "seccomp",
    ),
    "the machine's network": (
        "restricted",
        lambda m: pod(m).update(hostNetwork=True),
        "hostNetwork",
    ),
    "the machine's files": (
        "restricted",
        lambda m: pod(m)["volumes"].append({"name": "root", "hostPath": {"path": "/"}}),
        "hostPath",
    ),
    "a token for Kubernetes": (
        "privileges",
        lambda m: pod(m).pop("automountServiceAccountToken"),
        "token",
    ),
    "variables for every Service": (
        "privileges",
        lambda m: pod(m).pop("enableServiceLinks"),
        "variable for every Service",
    ),
    "files that may be written": (
        "privileges",
        lambda m: container(m)["securityContext"].pop("readOnlyRootFilesystem"),
        "may write",
    ),
    "a shared account": (
        "privileges",
        lambda m: pod(m, "keypost-delivery").update(serviceAccountName="keypost-ca"),
        "account of its own",
    ),
    "no limit": (
        "resources",
        lambda m: container(m)["resources"]["limits"].pop("memory"),
        "limits.memory",
    ),
    "a quantity that is none": (
        "resources",
        lambda m: container(m)["resources"]["requests"].update(cpu="100mm"),
        "100mm",
    ),
    "the latest image": (
        "images",
        lambda m: [container(m, name).update(image="keypost:latest") for name in ("keypost-ca",)],
        "does not say which",
    ),
    "images of two versions": (
        "images",
        lambda m: job(m).update(image="keypost:0.2.0"),
        "different versions",
    ),
    "a probe that nothing answers": (
        "probes",
        lambda m: container(m)["livenessProbe"]["grpc"].update(service="health"),
        "nothing answers 'health'",
    ),
    "a probe that names nothing": (
        "probes",
        lambda m: container(m)["livenessProbe"]["grpc"].pop("service"),
        "nothing answers ''",
    ),
    "a probe of a port with TLS": (
        "probes",
        lambda m: container(m)["readinessProbe"]["grpc"].update(port=8443),
        "port 8443",
    ),
    "a probe over HTTP": (
        "probes",
        lambda m: container(m).update(readinessProbe={"httpGet": {"port": "metrics", "path": "/ready"}}),
        "by gRPC",
    ),
    "a replica that drains and is killed for it": (
        "probes",
        lambda m: container(m)["livenessProbe"]["grpc"].update(service="readiness"),
        "livenessProbe: 'readiness'",
    ),
    "a replica that drains and is called": (
        "probes",
        lambda m: container(m)["readinessProbe"]["grpc"].update(service="liveness"),
        "readinessProbe: 'liveness'",
    ),
    "no probe": (
        "probes",
        lambda m: container(m).pop("startupProbe"),
        "startupProbe",
    ),
    "a service that nobody scrapes": (
        "scrape",
        lambda m: drop(m, "Service", "keypost-delivery-metrics"),
        "does not ask keypost-delivery",
    ),
    "a path that is not scraped": (
        "scrape",
        lambda m: spec(m, "ServiceMonitor", "keypost")["endpoints"][0].update(path="/stats"),
        "/stats",
    ),
    "a port of no name": (
        "scrape",
        lambda m: spec(m, "ServiceMonitor", "keypost")["endpoints"][0].update(port="web"),
        "no port web",
    ),
    "a metric that there is not": (
        "rules",
        lambda m: rule(m).update(expr="keypost_calls > 0"),
        "keypost_calls",
    ),
    "a job that there is not": (
        "rules",
        lambda m: rule(m).update(expr='absent(up{job="keypost-gateway"})'),
        "keypost-gateway",
    ),
    "the certificate of another service": (
        "certificates",
        lambda m: spec(m, "Certificate", "keypost-ca-internal").update(uris=["keypost://example.org/service/delivery"]),
        "keypost://example.org/service/ca",
    ),
    "a certificate with two names": (
        "certificates",
        lambda m: spec(m, "Certificate", "keypost-ca-internal")["uris"].append("keypost://example.org/service/x"),
        "alone",
    ),
    "a certificate without the name that callers expect": (
        "certificates",
        lambda m: spec(m, "Certificate", "keypost-ca-internal").update(dnsNames=["keypost-ca-internal"]),
        "ca.keypost.internal",
    ),
    "a public certificate of the service root": (
        "certificates",
        lambda m: spec(m, "Certificate", "keypost-ca-public")["issuerRef"].update(name="keypost-service"),
        "issued by keypost-service-root",
    ),
    "a service's certificate of the public root": (
        "certificates",
        lambda m: spec(m, "Certificate", "keypost-ca-internal")["issuerRef"].update(name="keypost-public"),
        "issued by keypost-public-root",
    ),
    "an issuer that there is not": (
        "certificates",
        lambda m: drop(m, "Issuer", "keypost-service"),
        "no keypost-service",
    ),
    "a root that is none": (
        "certificates",
        lambda m: spec(m, "Certificate", "keypost-service-root").pop("isCA"),
        "nobody makes its root",
    ),
    "a port without a certificate": (
        "certificates",
        lambda m: drop(m, "Certificate", "keypost-delivery-public"),
        "keypost-delivery: has no certificate",
    ),
    "a way in for administrators' calls": (
        "routes",
        lambda m: spec(m, "GRPCRoute", "keypost-ca")["rules"][0]["matches"].append(
            {"method": {"service": "keypost.ca.v1.AdministrationService"}}
        ),
        "AdministrationService is none that devices call",
    ),
    "a way in for everything": (
        "routes",
        lambda m: spec(m, "GRPCRoute", "keypost-ca")["rules"][0].pop("matches"),
        "everything is none",
    ),
    "no way for devices": (
        "routes",
        lambda m: drop(m, "GRPCRoute", "keypost-delivery"),
        "no way to keypost.delivery.v1.DeliveryService",
    ),
    "a way to another service": (
        "routes",
        lambda m: spec(m, "GRPCRoute", "keypost-ca")["rules"][0]["backendRefs"][0].update(name="keypost-delivery"),
        "not served by keypost-delivery",
    ),
    "a way to the internal port": (
        "routes",
        lambda m: spec(m, "GRPCRoute", "keypost-ca")["rules"][0]["backendRefs"][0].update(port=8444),
        "port 8444",
    ),
    "a route without a listener": (
        "routes",
        lambda m: spec(m, "GRPCRoute", "keypost-ca")["parentRefs"][0].update(sectionName="web"),
        "no listener",
    ),
    "a gateway that speaks no TLS": (
        "routes",
        lambda m: drop(m, "BackendTLSPolicy", "keypost-ca"),
        "would not speak TLS to keypost-ca",
    ),
    "a root that nobody gives": (
        "routes",
        lambda m: spec(m, "BackendTLSPolicy", "keypost-ca")["validation"]["caCertificateRefs"][0].update(name="root"),
        "nobody gives the ConfigMap root",
    ),
    "a flow that is opened": (
        "flows",
        lambda m: spec(m, "NetworkPolicy", "delivery-to-directory-out")["egress"][0]["to"].append({"podSelector": {}}),
        "let out: delivery -> ca TCP 8444",
    ),
    "a port that is opened to the whole namespace": (
        "flows",
        lambda m: spec(m, "NetworkPolicy", "directory-to-ca-in")["ingress"][0].pop("from"),
        "let in: delivery -> ca TCP 8444",
    ),
    "a policy for a port of long ago": (
        "flows",
        lambda m: spec(m, "NetworkPolicy", "devices-to-ca")["ingress"][0]["ports"][0].update(port=443),
        "not let through: device -> ca TCP 8443",
    ),
    "a policy that names no namespace": (
        "flows",
        lambda m: find(m, "NetworkPolicy", "to-database")["metadata"].pop("namespace"),
        "not let through: ca -> sql TCP 5432",
    ),
    "a policy of another namespace": (
        "flows",
        lambda m: find(m, "NetworkPolicy", "default-deny")["metadata"].update(namespace="default"),
        "let in: a stranger's pod -> migrations TCP 8444",
    ),
    "a way out to every pod beside the collector": (
        "flows",
        lambda m: spec(m, "NetworkPolicy", "to-collector")["egress"][0]["to"][0].pop("podSelector"),
        "let out: ca -> another pod of observability TCP 4317",
    ),
    "a collector at another port than the policy opens": (
        "flows",
        lambda m: settings(m, "keypost-ca").update(KEYPOST_CA_TRACING_ENDPOINT="http://collector.observability:4327"),
        "not let through: ca -> collector TCP 4327",
    ),
    "an issuer at another port than the policy opens": (
        "flows",
        lambda m: settings(m, "keypost-ca").update(KEYPOST_CA_OIDC_ISSUER="https://id.example.org:4443"),
        "not let through: ca -> issuer TCP 4443",
    ),
    "an issuer that the CA no longer has": (
        "flows",
        lambda m: settings(m, "keypost-ca").pop("KEYPOST_CA_OIDC_ISSUER"),
        "let out: ca -> issuer TCP 443",
    ),
    "a push gateway that no policy opens": (
        "flows",
        lambda m: drop(m, "NetworkPolicy", "to-push-gateway"),
        "not let through: delivery -> push TCP 443",
    ),
    "a way out to everything at the push gateway's port": (
        "flows",
        lambda m: spec(m, "NetworkPolicy", "to-push-gateway")["egress"][0].pop("to"),
        "let out: delivery -> the internet TCP 443",
    ),
    "a way out to everybody": (
        "flows",
        lambda m: spec(m, "NetworkPolicy", "to-cache")["egress"][0]["to"][0]["ipBlock"].update(cidr="0.0.0.0/0"),
        "let out: directory -> the internet TCP 6379",
    ),
}
"""What is wrong: which check sees it, how a rendering is spoilt, and what the check says."""


@pytest.mark.parametrize("what", BAD)
def test_a_bad_manifest_is_noticed(what: str) -> None:
    check, spoil, said = BAD[what]
    manifests = whole()
    spoil(manifests)
    assert said in "\n".join(CHECKS[check](manifests))


def test_every_check_is_shown_to_notice_something() -> None:
    assert {check for check, _, _ in BAD.values()} == {*CHECKS}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_policy_is_superfluous(overlay: str) -> None:
    """Without any one of them something is let through that should not be, or not let through that should."""
    names = [policy["metadata"]["name"] for policy in whole(overlay).of_kind("NetworkPolicy")]
    assert len(names) > 8
    for name in names:
        manifests = whole(overlay)
        drop(manifests, "NetworkPolicy", name)
        assert flow_problems(manifests) != [], name


def test_without_the_denial_pods_that_no_other_policy_names_are_open() -> None:
    manifests = whole()
    drop(manifests, "NetworkPolicy", "default-deny")
    assert "let in: a stranger's pod -> migrations TCP 8444" in flow_problems(manifests)


def test_the_stores_in_the_cluster_take_their_own_services_alone() -> None:
    flows = flows_in(whole("dev"))
    for store, port, callers in (
        ("sql", 5432, {"ca", "migrations"}),
        ("cache", 6379, {"directory"}),
        ("mailboxes", 6379, {"delivery"}),
        ("limits", 6379, {"ca", "directory", "delivery"}),
    ):
        assert {(source, at) for source, target, _, at in flows if target == store} == {
            (name, port) for name in callers
        }


def test_the_picture_of_the_architecture_is_read_whole() -> None:
    assert sorted(arrows_of_picture()) == [
        ("ca", "issuer"),
        ("ca", "limits"),
        ("ca", "sql"),
        ("delivery", "directory"),
        ("delivery", "limits"),
        ("delivery", "mailboxes"),
        ("delivery", "push"),
        ("directory", "ca"),
        ("directory", "cache"),
        ("directory", "limits"),
        ("sdk", "ca"),
        ("sdk", "delivery"),
        ("sdk", "directory"),
    ]


def test_probes_are_answered_as_the_services_answer() -> None:
    names = ("startup", "readiness", "liveness", "other")
    assert {state.name: [answer(name, state) for name in names] for state in State} == {
        "STARTING": [False, False, True, None],
        "SERVING": [True, True, True, None],
        "UNREADY": [True, False, True, None],
        "HUNG": [True, False, False, None],
    }


def test_custom_resources_that_the_tree_has_are_those_on_the_list() -> None:
    built_in = {"v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1"}
    found = {(each["apiVersion"], each["kind"]) for each in whole().resources if each["apiVersion"] not in built_in}
    assert found == {*CUSTOM}


def test_what_kustomize_refuses_or_warns_of_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(NotRenderedError, match="missing"):
        text_of(tmp_path)
    (tmp_path / "missing.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n")
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\ncommonLabels: {a: b}\n")
    with pytest.raises(NotRenderedError, match="deprecated"):
        text_of(tmp_path)


def test_the_tool_that_renders_comes_with_the_developers_environment() -> None:
    assert kubectl().name == "kubectl"
