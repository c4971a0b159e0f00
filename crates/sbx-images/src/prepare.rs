//! Everything a sandbox needs before it can start, in one call.

use sbx_sys::userns::Maps;

use crate::cache::{Artifact, Cache};
use crate::error::Error;
use crate::host::Host;
use crate::kernel::{Kernel, kernel, missing_for_kernel};
use crate::kit::Kit;
use crate::progress::Progress;
use crate::template::{Base, base, missing_for_base};
use crate::tree::{Tree, missing_for_tree, tree};

/// What a sandbox boots from.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The guest kernel.
    pub kernel: Kernel,
    /// The base root.
    pub base: Base,
    /// The agent's program, for a kit that brings one.
    pub kit_image: Option<Artifact>,
}

/// Makes what is missing of kernel, base root and the kit's program; a few
/// file system calls when all are there.
///
/// # Errors
/// [`Error::MissingPackages`] with all that any of them lacks, before the
/// first begins; else the error of the one that failed. What was finished
/// stays, the rest goes on at the next call.
pub fn prepare(
    cache: &Cache,
    host: &Host,
    kit: &Kit,
    progress: &dyn Progress,
) -> Result<Prepared, Error> {
    let mut missing = missing_for_kernel(cache, host)?;
    missing.extend(missing_for_base(cache, host)?);
    missing.extend(kit.missing(cache)?);
    missing.sort();
    missing.dedup_by(|a, b| a.program == b.program);
    if !missing.is_empty() {
        return Err(Error::MissingPackages(missing));
    }
    // The network is the most likely to fail: first.
    let kit_image = kit.image(cache, host, progress)?;
    let base = base(cache, host, progress)?;
    let kernel = kernel(cache, host, progress)?;
    Ok(Prepared {
        kernel,
        base,
        kit_image,
    })
}

/// What a container stands on: no kernel, no image.
#[derive(Clone, Debug)]
pub struct PreparedContainer {
    /// The base root, to be shared read-only.
    pub tree: Tree,
    /// The agent's program, likewise, for a kit that brings one.
    pub kit_directory: Option<Tree>,
}

/// The same for a container with these maps.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_container(
    cache: &Cache,
    host: &Host,
    kit: &Kit,
    maps: &Maps,
    progress: &dyn Progress,
) -> Result<PreparedContainer, Error> {
    let mut missing = missing_for_tree(cache, host, maps)?;
    missing.extend(kit.missing_for_program(cache, maps)?);
    missing.sort();
    missing.dedup_by(|a, b| a.program == b.program);
    if !missing.is_empty() {
        return Err(Error::MissingPackages(missing));
    }
    let kit_directory = kit.program(cache, host, maps, progress)?;
    let tree = tree(cache, host, maps, progress)?;
    Ok(PreparedContainer {
        tree,
        kit_directory,
    })
}
