"""The JobSet that runs a run on one TPU slice of a GKE cluster.

    JobSet (restarted as a whole, max_restarts times)
      └─ Job "run": a pod a host, indexed
           exit code 0            done
           1 to 127, but not 42   FailJob: the JobSet fails at once, as in `supervision`
           42, killed, evicted    the Job fails (no retries of its own), the JobSet starts all anew

A preemption is one of the `max_restarts`, which on no other way it is: a rule of JobSet sees why a
Job failed, and that is one reason for all that is no FailJob, be it 42 or an eviction.

GKE tells pods of a TPU slice who the others are (TPU_WORKER_HOSTNAMES), through the headless
service that a JobSet makes; the bucket is mounted by the Cloud Storage FUSE driver.
The fields are those of jobset.x-k8s.io/v1alpha2 and of batch/v1.
"""

from __future__ import annotations

import shlex
from typing import Any

from launch.accelerators import Slice
from launch.host_words import MOUNT, cloud_arguments, install_words, run_words
from launch.settings import Settings
from launch.supervision import KILLED, RESUMABLE

# Of the bucket's folder, as the pods see it.
CODE = "launch/{name}/code.tar.gz"
_FOLDER = "/opt/coderllm_jax"
# What ends a run for good, whoever says it: the run, Python, the shell, the installation.
_FINAL_CODES = [code for code in range(1, KILLED) if code != RESUMABLE]
# Longer than checkpoint.grace_period_s. Nodes that are preempted give 15 seconds all the same.
_GRACE_PERIOD_S = 40


def make_jobset(settings: Settings, slice_: Slice) -> dict[str, Any]:
    """The manifest, as kubectl takes it in JSON."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": settings.name,
            "namespace": settings.gke.namespace,
            # One slice a Job: its pods are put into one node pool, and nobody else's.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": settings.max_restarts,
                "rules": [
                    {
                        "name": "aRetryWouldFailAlike",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "run", "replicas": 1, "template": {"spec": _job(settings, slice_)}}
            ],
        },
    }


def secret_name(settings: Settings) -> str:
    """The Secret that holds what secrets_file does."""
    return f"{settings.name}-secrets"


def _job(settings: Settings, slice_: Slice) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "parallelism": slice_.num_hosts,
        "completions": slice_.num_hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "run",
                        "operator": "In",
                        "values": _FINAL_CODES,
                    },
                }
            ]
        },
        "template": {
            "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}},
            "spec": _pod(settings, slice_),
        },
    }


def _pod(settings: Settings, slice_: Slice) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": slice_.gke_label,
        "cloud.google.com/gke-tpu-topology": slice_.topology,
    }
    if settings.cloud.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    container: dict[str, Any] = {
        "name": "run",
        "image": settings.gke.image,
        "command": ["bash", "-c", _literal(_script(settings))],
        # The first is the script's own name.
        "args": ["run", *map(_literal, cloud_arguments(settings, num_hosts=slice_.num_hosts))],
        "ports": [{"containerPort": 8471}, {"containerPort": 8482}],
        "resources": {
            "limits": {"google.com/tpu": slice_.chips_per_host},
            "requests": {"google.com/tpu": slice_.chips_per_host},
        },
        "volumeMounts": [{"name": "bucket", "mountPath": MOUNT}],
    }
    if settings.secrets_file:
        container["envFrom"] = [{"secretRef": {"name": secret_name(settings)}}]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_PERIOD_S,
        "serviceAccountName": settings.gke.service_account,
        "nodeSelector": selector,
        "containers": [container],
        "volumes": [{"name": "bucket", "csi": _bucket(settings.cloud.bucket)}],
    }


def _script(settings: Settings) -> str:
    archive = f"{MOUNT}/{CODE.format(name=settings.name)}"
    steps = [
        ["mkdir", "-p", _FOLDER],
        ["tar", "xzf", archive, "-C", _FOLDER],
        ["cd", _FOLDER],
        install_words(settings, "tpu"),
    ]
    run = shlex.join(["exec", *run_words(settings.name, [])])
    return " && ".join([*map(shlex.join, steps), f'{run} "$@"'])


def _bucket(bucket: str) -> dict[str, Any]:
    name, _, folder = bucket.removeprefix("gs://").rstrip("/").partition("/")
    # As host.sh mounts it: nothing is remembered about files, checkpoints rename folders.
    options = ["implicit-dirs", "metadata-cache:ttl-secs:0", "rename-dir-limit=10000"]
    options += [f"only-dir={folder}"] if folder else []
    return {
        "driver": "gcsfuse.csi.storage.gke.io",
        "volumeAttributes": {"bucketName": name, "mountOptions": ",".join(options)},
    }


def _literal(text: str) -> str:
    """Kubernetes expands $(NAME) in commands and arguments, and takes $$ for a dollar."""
    return text.replace("$", "$$")
