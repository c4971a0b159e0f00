//! The file server driven as a guest's kernel would drive it, without a kernel in between.

#[cfg(test)]
mod files;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod repository;
#[cfg(test)]
mod world;
