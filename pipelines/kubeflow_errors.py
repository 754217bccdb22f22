"""What can go wrong with a Kubeflow Pipelines API, and what a person can do about it."""

from __future__ import annotations

import json
from typing import Any

import kfp_server_api  # type: ignore[import-untyped]
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError, TimeoutError

from mec.errors import MecError

GIVE_TOKEN = "pass --token-file with a token that is valid now, as the cluster's documentation says"
_LOG_IN = {301, 302, 303, 307, 308}


class KubeflowError(MecError):
    """The Kubeflow Pipelines API cannot be reached, refuses, or fails.

    Attributes:
        status: HTTP status; None if there was no answer.
    """

    status: int | None = None


def reason_of(error: BaseException) -> BaseException:
    """What urllib3 gave up on."""
    while isinstance(error, MaxRetryError) and error.reason is not None:
        error = error.reason
    return error


def refused(what: str, error: Any, url: str, namespace: str) -> KubeflowError:
    """The error for an answer of the API; ``what`` completes "cannot …"."""
    where = f" in the namespace {namespace}" if namespace else ""
    fixes = {
        400: "the request does not suit this server; compare its version with kfp's, " + kfp_server_api.__version__,
        401: GIVE_TOKEN,
        403: "ask for the role kubeflow-edit in the namespace, or pass --namespace",
        404: "check --host, which ends in /pipeline on a full Kubeflow, and --namespace",
        409: "something with this name is there already; run the command again, or remove it in the UI",
    }
    problems = {401: "the credentials are not accepted", 403: f"not allowed{where}", 404: "not found"}
    problems |= dict.fromkeys(_LOG_IN, "it leads to a log-in page") | {409: "it conflicts with what is there"}
    fixes |= dict.fromkeys(_LOG_IN, GIVE_TOKEN)
    problem = problems.get(error.status, f"the server answered {error.status}")
    fix = fixes.get(error.status, "look at the log of the API server, deploy/ml-pipeline")
    made = KubeflowError(f"cannot {what} at {url}: {problem}", found=_message(error), fix=fix)
    made.status = error.status
    return made


def _message(error: Any) -> str:
    text = error.body or error.reason or ""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if isinstance(body, dict):
        text = body.get("message") or body.get("error") or text
    return f"{error.status} {' '.join(str(text).split())[:300]}".strip()


def unanswered(what: str, error: HTTPError, url: str, repeat: bool, timeout_s: int) -> KubeflowError:
    """The error for no answer at all; ``repeat`` says whether the call may be made again."""
    reason = reason_of(error)
    if isinstance(reason, SSLError):
        fix = "use the host name that the certificate is for, and pass its authority as --ca-file"
        return KubeflowError(f"cannot {what} at {url}: its certificate is not trusted", found=reason, fix=fix)
    # urllib3 makes a refused connection a timeout's sibling
    late = isinstance(reason, TimeoutError) and not isinstance(reason, urllib3.exceptions.NewConnectionError)
    problem = f"no answer within {timeout_s} s" if late else "nothing answers"
    fix = "check --host, and that the port-forward or VPN is up"
    if late and not repeat:
        fix = "it may have been done all the same: look before you try again (mec schedule diff, or the UI)"
    return KubeflowError(f"cannot {what} at {url}: {problem}", found=type(reason).__name__, fix=fix)
