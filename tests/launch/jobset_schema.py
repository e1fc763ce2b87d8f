"""The parts of a JobSet that a launch uses, as a JSON schema that knows nothing else.

Written from the CustomResourceDefinition in kubernetes-sigs/jobset (charts/jobset/crds, version
v1alpha2: names, types, enumerations, the pattern of a rule's name, which values must be ordered and
without 0) and, for what a pod of GKE needs, from Kubernetes' reference of core/v1 and GKE's pages
on TPUs and on the Cloud Storage FUSE driver. A field with a slip in it is no field of this schema.
"""

from __future__ import annotations

from typing import Any


def _object(required: str, optional: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**fields, **(optional or {})},
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


_LABEL = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_TPUS = _object("google.com/tpu", **{"google.com/tpu": {"enum": [1, 4, 8]}})

_CONTAINER = _object(
    "name image command args resources volumeMounts",
    name=_LABEL,
    image=_TEXT,
    command=_list(_TEXT),
    args=_list({"type": "string"}),
    ports=_list(_object("containerPort", containerPort={"type": "integer", "maximum": 65535})),
    resources=_object("limits requests", limits=_TPUS, requests=_TPUS),
    volumeMounts=_list(
        _object("name mountPath", name=_LABEL, mountPath={"type": "string", "pattern": "^/"})
    ),
    optional={"envFrom": _list(_object("secretRef", secretRef=_object("name", name=_LABEL)))},
)
_POD = _object(
    "restartPolicy nodeSelector containers volumes serviceAccountName",
    # The only one that goes with a podFailurePolicy.
    restartPolicy={"const": "Never"},
    terminationGracePeriodSeconds=_COUNT,
    serviceAccountName=_LABEL,
    nodeSelector=_object(
        "cloud.google.com/gke-tpu-accelerator cloud.google.com/gke-tpu-topology",
        **{
            "cloud.google.com/gke-tpu-accelerator": {
                "enum": [
                    "tpu-v4-podslice",
                    "tpu-v5-lite-podslice",
                    "tpu-v5p-slice",
                    "tpu-v6e-slice",
                ]
            },
            "cloud.google.com/gke-tpu-topology": {
                "type": "string",
                "pattern": "^[0-9]+x[0-9]+(x[0-9]+)?$",
            },
            "cloud.google.com/gke-spot": {"const": "true"},
        },
    ),
    containers=_list(_CONTAINER),
    volumes=_list(
        _object(
            "name csi",
            name=_LABEL,
            csi=_object(
                "driver volumeAttributes",
                driver={"const": "gcsfuse.csi.storage.gke.io"},
                volumeAttributes=_object(
                    "bucketName mountOptions", bucketName=_TEXT, mountOptions=_TEXT
                ),
            ),
        )
    ),
)
_JOB = _object(
    "completionMode parallelism completions backoffLimit podFailurePolicy template",
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    parallelism=_COUNT,
    completions=_COUNT,
    backoffLimit={"type": "integer", "minimum": 0},
    podFailurePolicy=_object(
        "rules",
        rules=_list(
            _object(
                "action onExitCodes",
                action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
                onExitCodes=_object(
                    "operator values",
                    containerName=_LABEL,
                    operator={"enum": ["In", "NotIn"]},
                    values={
                        **_list({"type": "integer", "minimum": 1, "maximum": 255}),
                        "maxItems": 255,
                        "uniqueItems": True,
                    },
                ),
            )
        ),
    ),
    template=_object(
        "metadata spec",
        metadata=_object(
            "annotations",
            annotations=_object(
                "gke-gcsfuse/volumes", **{"gke-gcsfuse/volumes": {"const": "true"}}
            ),
        ),
        spec=_POD,
    ),
)
JOBSET = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=_object(
        "name namespace",
        name=_LABEL,
        namespace=_LABEL,
        annotations=_object(
            "alpha.jobset.sigs.k8s.io/exclusive-topology",
            **{
                "alpha.jobset.sigs.k8s.io/exclusive-topology": {
                    "const": "cloud.google.com/gke-nodepool"
                }
            },
        ),
    ),
    spec=_object(
        "failurePolicy replicatedJobs",
        failurePolicy=_object(
            "maxRestarts rules",
            maxRestarts={"type": "integer", "minimum": 0},
            rules=_list(
                _object(
                    "action name",
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={
                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                    },
                    onJobFailureReasons=_list(
                        {
                            "enum": [
                                *("BackoffLimitExceeded", "DeadlineExceeded"),
                                *("FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"),
                            ]
                        }
                    ),
                )
            ),
        ),
        replicatedJobs=_list(
            _object(
                "name template",
                name=_LABEL,
                replicas=_COUNT,
                template=_object("spec", spec=_JOB),
            )
        ),
    ),
)
