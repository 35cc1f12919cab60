//! The buckets of histograms.

use super::{
    COMMIT_SECONDS, COMMIT_WRITES, FEEDBACK, FIRST_TOKEN_SECONDS, MODEL_WAIT_SECONDS,
    QUEUE_WAIT_SECONDS, TOOL_SECONDS, TURN_SECONDS,
};

/// The upper bounds of each histogram's buckets, by the histogram's name.
pub const BUCKETS: &[(&str, &[f64])] = &[
    (
        TURN_SECONDS,
        &[
            0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
        ],
    ),
    (
        FIRST_TOKEN_SECONDS,
        &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
    ),
    (
        TOOL_SECONDS,
        &[
            0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
        ],
    ),
    (
        QUEUE_WAIT_SECONDS,
        &[
            0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0,
        ],
    ),
    (
        MODEL_WAIT_SECONDS,
        &[
            0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0,
        ],
    ),
    (
        COMMIT_WRITES,
        &[
            1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
        ],
    ),
    (
        COMMIT_SECONDS,
        &[
            0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
        ],
    ),
    (
        FEEDBACK,
        &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    ),
];
