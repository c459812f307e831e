"""The first look at a dataset in a bucket: an answer within seconds, or an error that says what to do.

Clients of buckets try again for minutes where nobody answers, and look for credentials at servers that only machines
of their clouds have. That is right for a run under way and wrong for its first second.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.exceptions import FSTimeoutError

from lvg_data.errors import DatasetError

#: seconds that a bucket has for its first answer
ANSWER_S = 10.0
EXTRAS = {"s3": "aws", "gs": "gcp"}
#: scheme -> how its client gets credentials
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and for a store that is not Amazon's "
    "AWS_ENDPOINT_URL",
    "gs": "`gcloud auth application-default login`, or the file of a service account in "
    "GOOGLE_APPLICATION_CREDENTIALS",
}


def check_answers(dataset: str | Path, answer_s: float = ANSWER_S) -> None:
    """Asks the bucket of a dataset for dataset.json once; folders and other addresses are not looked at.

    Args:
      answer_s: how long to wait, in seconds, where credentials are at hand.

    Raises:
      DatasetError: no answer, or none that lets us in; the text names the address and how to give credentials.
    """
    scheme = str(dataset).partition("://")[0]
    if scheme not in CREDENTIALS:
        return
    url = f"{str(dataset).rstrip('/')}/dataset.json"
    try:
        found = _find_credentials(scheme)
        with _without_logs("gcsfs"):
            fs, path = fsspec.url_to_fs(url)
            fs.info(path, timeout=answer_s)
    except FileNotFoundError:
        return  # an answer; who opens the dataset says what is missing
    except ImportError as err:
        raise DatasetError(f"{url} cannot be read ({err}): `pip install 'lvg[{EXTRAS[scheme]}]'`") from err
    except FSTimeoutError as err:
        raise DatasetError(_unreached(url, f"no answer within {answer_s:g} s", found, scheme)) from err
    except Exception as err:  # each kind of store has errors of its own
        raise DatasetError(_unreached(url, f"{type(err).__name__}: {err}", found, scheme)) from err


@contextlib.contextmanager
def _without_logs(name: str) -> Iterator[None]:
    """Tracebacks of what is said here in words."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unreached(url: str, reason: str, found: bool, scheme: str) -> str:
    with_what = "" if found else ", asked without credentials, for there are none here"
    return (
        f"{url} cannot be read{with_what} ({reason}); check the address and the network, and who may read it: "
        f"credentials come from {CREDENTIALS[scheme]}"
    )


def _find_credentials(scheme: str) -> bool:
    """Whether there are credentials. Where there are none for Google, gcsfs is kept from waiting for them."""
    if scheme == "s3":
        from botocore.session import Session

        return Session().get_credentials() is not None
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return True
    from google.auth import default
    from google.auth.exceptions import GoogleAuthError

    try:
        default()
    except GoogleAuthError:
        # `default` has just asked the metadata server; gcsfs would ask it five times more, in 15 s
        os.environ["NO_GCE_CHECK"] = "true"
        return False
    return True
