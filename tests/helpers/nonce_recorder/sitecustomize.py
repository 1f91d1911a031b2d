"""Found through PYTHONPATH by every Python process that a test starts."""

import nonce_recorder  # type: ignore[import-not-found, unused-ignore]

nonce_recorder.install_from_environment()
