//! The offline check of a disk's directory (`penstock admin disk check`), for the command line, which knows no engine.

pub use engine::check::{
    CheckError, CheckProgress, DiskProblem, DiskReport, ProblemKind, Repair, check_disk,
};
