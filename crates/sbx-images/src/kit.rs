//! Kits: how an agent is installed, started and spared its first questions.
//!
//! Owns: the kits of this version, the pins of what they fetch. Never: runs
//! anything of a package on the host; looks at the host's own set-up of an
//! agent. Trusts: the digest written in the kit, not the registry.

mod fetch;
mod first_start;
mod image;

use std::collections::BTreeMap;

use sbx_spec::{Action, ByteSize, KitName, Origin, Resource, Rule};
use sbx_sys::userns::Maps;
use serde::Deserialize;

use crate::cache::{Artifact, Cache, EntryName, Key};
use crate::error::{Error, MissingPackage};
use crate::host::{Host, Need, missing};
use crate::progress::Progress;
use crate::tree::{Source, Tree, missing_to_unpack};

pub use first_start::{HomeContext, HomeFile};

const BUILT_IN: [(&str, &str); 2] = [
    ("claude", include_str!("../kits/claude.toml")),
    ("shell", include_str!("../kits/shell.toml")),
];

const IMAGE: &str = "kit.erofs";
/// Changes whenever the same package would give another image.
const BUILDER: &[u8] = b"kit-1";

const NEEDS: [Need; 4] = [
    Need {
        program: "npm",
        package: "npm",
        why: "fetches the agent's program",
    },
    Need {
        program: "node",
        package: "nodejs",
        why: "runs npm",
    },
    Need {
        program: "bwrap",
        package: "bubblewrap",
        why: "holds npm while it fetches",
    },
    Need {
        program: "mkfs.erofs",
        package: "erofs-utils",
        why: "makes read-only images",
    },
];

/// How an agent is installed, started and spared its first questions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kit {
    /// Its name.
    pub name: KitName,
    /// What it is, in a few words.
    pub about: String,
    /// Program and arguments, to which the user's arguments are added.
    pub start: Vec<String>,
    /// Arguments of the agent's own unattended mode.
    pub unattended: Vec<String>,
    /// Variables that every session of this agent gets.
    pub env: BTreeMap<String, String>,
    /// Names of variables that hold a credential of this agent.
    pub credentials: Vec<String>,
    /// What the agent's own service needs; names and patterns with ports.
    #[serde(default)]
    network: Vec<Resource>,
    first_start: first_start::FirstStart,
    install: Option<Install>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Install {
    npm: NpmPackage,
}

/// A pinned package of the npm registry that holds one native program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NpmPackage {
    package: String,
    version: String,
    integrity: String,
    size: u64,
    program: String,
    install_as: String,
}

impl Kit {
    /// The kit of that name; `Ok(None)` if there is none.
    ///
    /// # Errors
    /// [`Error::Form`] if its definition is not a kit (a test forbids it for
    /// those of this version).
    pub fn named(name: &KitName) -> Result<Option<Self>, Error> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name.as_str());
        let Some((_, text)) = found else {
            return Ok(None);
        };
        toml::from_str(text)
            .map(Some)
            .map_err(|error| Error::form(format!("kit {name}"), error))
    }

    /// What the agent itself needs to reach, as rules.
    pub fn network_rules(&self) -> impl Iterator<Item = Rule> {
        self.network.iter().filter_map(|resource| {
            let origin = Origin::Kit(self.name.clone());
            Rule::new(Action::Allow, resource.clone(), origin).ok()
        })
    }

    /// The names of all kits.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The command line of a session: the kit's own arguments, those of its
    /// unattended mode if asked for and not already there, then the user's.
    #[must_use]
    pub fn command(&self, unattended: bool, user_args: &[String]) -> Vec<String> {
        let mut argv = self.start.clone();
        let wanted = self
            .unattended
            .iter()
            .filter(|arg| unattended && !user_args.contains(arg));
        argv.extend(wanted.cloned());
        argv.extend_from_slice(user_args);
        argv
    }

    /// Files to lay down in the agent's home before its first session, so
    /// that it asks nothing that is already known here.
    ///
    /// # Errors
    /// [`Error::Form`] if one cannot be written as text.
    pub fn home_files(&self, context: &HomeContext<'_>) -> Result<Vec<HomeFile>, Error> {
        self.first_start.home_files(context)
    }

    /// The version of the agent's program, if the kit brings one.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.install
            .as_ref()
            .map(|install| install.npm.version.as_str())
    }

    /// The image with the agent's program, fetched if it is not there;
    /// `None` for a kit that brings none. The guest mounts it at
    /// `/opt/sbx/kits/<name>`.
    ///
    /// # Errors
    /// [`Error::MissingPackages`], [`Error::Namespaces`],
    /// [`Error::Integrity`] if the archive is not the pinned one,
    /// [`Error::Program`] if the client fails.
    pub fn image(
        &self,
        cache: &Cache,
        host: &Host,
        progress: &dyn Progress,
    ) -> Result<Option<Artifact>, Error> {
        let Some(install) = &self.install else {
            return Ok(None);
        };
        if let Some(image) = self.present_image(cache)? {
            return Ok(Some(image));
        }
        let missing = self.missing(cache)?;
        if !missing.is_empty() {
            return Err(Error::MissingPackages(missing));
        }
        let image = cache.make(&self.entry_name(&install.npm), progress, |place| {
            let archive = fetch::fetch(&install.npm, host, place.work()?, progress)?;
            progress.note(&format!("unpacking {} {}", self.name, install.npm.version));
            image::make(
                &install.npm,
                &archive,
                place.work()?,
                &place.entry.join(IMAGE),
                progress,
            )
        })?;
        Ok(Some(image))
    }

    /// The image that [`Kit::image`] would return without fetching, if any.
    ///
    /// # Errors
    /// [`Error::File`] if the cache cannot be read.
    pub fn present_image(&self, cache: &Cache) -> Result<Option<Artifact>, Error> {
        match &self.install {
            Some(install) => cache.find(&self.entry_name(&install.npm)),
            None => Ok(None),
        }
    }

    /// What this host lacks to make the image; empty if none has to be made.
    ///
    /// # Errors
    /// As [`Kit::present_image`].
    pub fn missing(&self, cache: &Cache) -> Result<Vec<MissingPackage>, Error> {
        if self.install.is_none() || self.present_image(cache)?.is_some() {
            return Ok(Vec::new());
        }
        Ok(missing(&NEEDS))
    }

    /// The same as a directory for containers with these maps, unpacked from
    /// the image: read by everybody inside, owned by their root. A container
    /// has it, read-only, where a machine has the image.
    ///
    /// # Errors
    /// As [`Kit::image`].
    pub fn program(
        &self,
        cache: &Cache,
        host: &Host,
        maps: &Maps,
        progress: &dyn Progress,
    ) -> Result<Option<Tree>, Error> {
        if let Some(program) = self.present_program(cache, maps)? {
            return Ok(Some(program));
        }
        let missing = self.missing_for_program(cache, maps)?;
        if !missing.is_empty() {
            return Err(Error::MissingPackages(missing));
        }
        let image = self.image(cache, host, progress)?;
        image
            .map(|image| self.source(&image).unpack(cache, maps, progress))
            .transpose()
    }

    /// The directory that [`Kit::program`] would return without making it,
    /// if any.
    ///
    /// # Errors
    /// [`Error::File`] if the cache cannot be read.
    pub fn present_program(&self, cache: &Cache, maps: &Maps) -> Result<Option<Tree>, Error> {
        match self.present_image(cache)? {
            Some(image) => self.source(&image).present(cache, maps),
            None => Ok(None),
        }
    }

    /// What this host lacks to make the directory, the image included; empty
    /// if none has to be made.
    ///
    /// # Errors
    /// As [`Kit::present_program`].
    pub fn missing_for_program(
        &self,
        cache: &Cache,
        maps: &Maps,
    ) -> Result<Vec<MissingPackage>, Error> {
        if self.install.is_none() || self.present_program(cache, maps)?.is_some() {
            return Ok(Vec::new());
        }
        let mut list = self.missing(cache)?;
        list.extend(missing_to_unpack(maps));
        Ok(list)
    }

    fn source<'a>(&self, image: &'a Artifact) -> Source<'a> {
        Source {
            kind: "program",
            image,
            title: format!("the program of {} for containers", self.name),
        }
    }

    /// The entry of the kit's image, to be filled by a test.
    #[cfg(test)]
    pub(crate) fn image_entry(&self) -> Option<EntryName> {
        let install = self.install.as_ref()?;
        Some(self.entry_name(&install.npm))
    }

    fn entry_name(&self, npm: &NpmPackage) -> EntryName {
        let parts = [BUILDER, npm.integrity.as_bytes(), npm.install_as.as_bytes()];
        EntryName {
            kind: "kit",
            key: Key::of(&parts),
            payload: IMAGE,
            title: format!("the program of {}", self.name),
            // The client's copy, the archive, the program and the image.
            room: ByteSize::bytes(npm.size.saturating_mul(6)),
        }
    }
}

#[cfg(test)]
mod tests;
