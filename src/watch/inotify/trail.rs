//! The way to what is watched: every place where something may happen that makes the path lead
//! somewhere else.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::{Code, Error};

/// A folder on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub folder: PathBuf,
    /// The name in it that counts: the watched one, a symbolic link's, or the first that is
    /// missing. `None`: only what becomes of the folder itself.
    pub name: Option<OsString>,
}

/// Where a path leads now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trail {
    pub steps: Vec<Step>,
    /// The path without symbolic links, and whether it is a folder.
    pub found: Result<(PathBuf, bool), Error>,
}

/// As many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Follows an absolute path, symbolic links included.
pub(super) fn follow(path: &Path) -> Trail {
    let mut steps = Vec::new();
    let found = walk(path, &mut steps).map_err(Error::from);
    Trail { steps, found }
}

fn walk(path: &Path, steps: &mut Vec<Step>) -> io::Result<(PathBuf, bool)> {
    let mut left: VecDeque<OsString> = names(path).collect();
    let mut at = PathBuf::from("/");
    let mut directory = true;
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let step = |name: Option<&OsStr>| Step {
            folder: at.clone(),
            name: name.map(OsStr::to_owned),
        };
        let status = match fs::symlink_metadata(&next) {
            Ok(status) => status,
            Err(error) => {
                steps.push(step(Some(&name)));
                return Err(error);
            }
        };
        if status.is_symlink() {
            steps.push(step(Some(&name)));
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::from(Error::new(Code::ELOOP)));
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                left.push_front(name);
            }
            continue;
        }
        steps.push(step(left.is_empty().then_some(&name)));
        directory = status.is_dir();
        at = next;
    }
    Ok((at, directory))
}

/// The names that a path consists of, `..` among them.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(trail: &Trail, below: &Path) -> Vec<(PathBuf, Option<String>)> {
        let steps = trail.steps.iter();
        let below = steps.filter_map(|step| {
            let folder = step.folder.strip_prefix(below).ok()?.to_owned();
            Some((
                folder,
                step.name
                    .as_ref()
                    .map(|name| name.to_str().unwrap().to_owned()),
            ))
        });
        below.collect()
    }

    #[test]
    fn every_link_and_the_last_name_count() {
        let base = std::env::temp_dir().join(format!("kolo-trail-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("real/deep")).unwrap();
        let base = base.canonicalize().unwrap();
        fs::write(base.join("real/deep/file"), "x").unwrap();
        std::os::unix::fs::symlink("real/../real", base.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", base.join("loop")).unwrap();

        let some = |folder: &str, name: &str| (PathBuf::from(folder), Some(name.to_owned()));
        let trail = follow(&base.join("link/deep/file"));
        assert_eq!(trail.found, Ok((base.join("real/deep/file"), false)));
        let none = |folder: &str| (PathBuf::from(folder), None);
        assert_eq!(
            steps(&trail, &base),
            [
                some("", "link"),
                none(""),
                none(""),
                none("real"),
                some("real/deep", "file")
            ]
        );

        let trail = follow(&base.join("real/absent/file"));
        assert_eq!(trail.found.as_ref().unwrap_err().code(), Code::ENOENT);
        assert_eq!(steps(&trail, &base), [none(""), some("real", "absent")]);

        let trail = follow(&base.join("loop"));
        assert_eq!(trail.found.unwrap_err().code(), Code::ELOOP);
        fs::remove_dir_all(&base).unwrap();
    }
}
