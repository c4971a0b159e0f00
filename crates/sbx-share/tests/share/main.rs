//! The file server driven as a guest's kernel would drive it, without a kernel in between.

mod files;
mod guard;
mod world;
