//! What users and strangers do wrong: each a clear error, and the cluster goes on.

mod command_line;
mod data_dir;
mod full_disk;
mod mount_point;
mod network;
mod ports;
