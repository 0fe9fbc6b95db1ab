"""runs."""

from .identity import (
    SOURCES_AT_IMPORT,
    TRAINING_SOURCES,
    code_digest,
    digest,
    fields_that_count,
    module_digest,
    normalised_source,
    training_sources,
)
from .run import (
    Follower,
    Run,
    claim,
    naming,
    read_json,
    runs_folder,
    save_metrics,
    write_bytes,
    write_json,
)
