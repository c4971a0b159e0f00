//! The command line of `sudo(8)`, as much of it as scripts use.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use sbx_proto::session::User;

use super::Shell;

/// What a command line asks for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Invocation {
    /// Run something.
    Run(Box<Run>),
    /// `-v`, `-k`, `-K`: nothing is remembered, nothing to do.
    Nothing,
    /// `-l`.
    List,
    /// `-V`.
    Version,
    /// `-h`, or nothing at all.
    Usage,
}

/// Something to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) user: User,
    pub(crate) gid: Option<u32>,
    pub(crate) shell: Shell,
    pub(crate) preserve: Preserve,
    pub(crate) cwd: Option<OsString>,
    /// `NAME=value` words.
    pub(crate) set: Vec<(OsString, OsString)>,
    /// Empty only with a shell.
    pub(crate) command: Vec<OsString>,
}

/// What of the caller's environment is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Preserve {
    Terminal,
    Names(Vec<String>),
    All,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            user: User::Root,
            gid: None,
            shell: Shell::None,
            preserve: Preserve::Terminal,
            cwd: None,
            set: Vec::new(),
            command: Vec::new(),
        }
    }
}

/// Options that need no action here.
const IGNORED: &str = "nSHPbBA";
/// Options with a value that needs no action here.
const IGNORED_VALUE: &str = "pCRTUrth";

/// Reads the words after `sudo`; the error is for the user.
pub(crate) fn parse(words: Vec<OsString>) -> Result<Invocation, String> {
    let mut run = Run::default();
    let mut words = words.into_iter().peekable();
    let (mut reset, mut list, mut validate, mut any) = (false, false, false, false);
    while let Some(word) = words.next_if(is_option) {
        any = true;
        let Some(text) = word.to_str().map(str::to_owned) else {
            return Err("an option that is not text".to_owned());
        };
        if text == "--" {
            break;
        }
        if let Some(long) = text.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (long, None),
            };
            let letter = long_option(name).ok_or_else(|| format!("unknown option `{text}`"))?;
            if letter == 'E' {
                run.preserve = match value {
                    Some(names) => preserve_names(&names),
                    None => Preserve::All,
                };
                continue;
            }
            let value = match value {
                None if takes_value(letter) => words.next(),
                value => value,
            };
            match letter {
                'k' | 'K' => reset = true,
                'v' => validate = true,
                'l' => list = true,
                'V' => return Ok(Invocation::Version),
                '?' => return Ok(Invocation::Usage),
                _ => run.option(letter, value)?,
            }
            continue;
        }
        let letters: Vec<char> = text.chars().skip(1).collect();
        let mut rest = letters.as_slice();
        while let Some((&letter, after)) = rest.split_first() {
            rest = after;
            match letter {
                'k' | 'K' => reset = true,
                'v' => validate = true,
                'l' => list = true,
                'V' => return Ok(Invocation::Version),
                'h' if text == "-h" && words.peek().is_none() => return Ok(Invocation::Usage),
                _ if takes_value(letter) => {
                    let value = if rest.is_empty() {
                        words.next()
                    } else {
                        Some(OsString::from(rest.iter().collect::<String>()))
                    };
                    rest = &[];
                    run.option(letter, value)?;
                }
                _ => run.option(letter, None)?,
            }
        }
    }
    while let Some(word) = words.next_if(|word| assignment(word).is_some()) {
        run.set.extend(assignment(&word));
    }
    run.command = words.collect();
    if list {
        return Ok(Invocation::List);
    }
    if run.command.is_empty() && run.shell == Shell::None {
        return Ok(match any && (reset || validate) {
            true => Invocation::Nothing,
            false => Invocation::Usage,
        });
    }
    Ok(Invocation::Run(Box::new(run)))
}

impl Run {
    fn option(&mut self, letter: char, value: Option<OsString>) -> Result<(), String> {
        let value = |name: &str| {
            let value = value
                .clone()
                .ok_or_else(|| format!("option {name} needs a value"))?;
            value
                .into_string()
                .map_err(|_| format!("the value of {name} is not text"))
        };
        match letter {
            'u' => self.user = parse_user(value("-u")?)?,
            'g' => {
                let text = value("-g")?;
                let id = text.strip_prefix('#').unwrap_or(&text);
                self.gid = Some(match id {
                    "root" => 0,
                    id => id
                        .parse()
                        .map_err(|_| format!("group `{text}` is not a number"))?,
                });
            }
            'D' => self.cwd = Some(value("-D")?.into()),
            'E' => self.preserve = Preserve::All,
            'i' => self.shell = Shell::Login,
            's' => self.shell = Shell::Plain,
            'e' => return Err("editing with -e is not offered; run the editor itself".to_owned()),
            _ if IGNORED.contains(letter) => {}
            _ if IGNORED_VALUE.contains(letter) => drop(value("this")?),
            _ => return Err(format!("unknown option `-{letter}`")),
        }
        Ok(())
    }
}

fn is_option(word: &OsString) -> bool {
    let bytes = word.as_bytes();
    bytes.starts_with(b"-") && bytes != b"-"
}

fn takes_value(letter: char) -> bool {
    "ugD".contains(letter) || IGNORED_VALUE.contains(letter)
}

fn long_option(name: &str) -> Option<char> {
    Some(match name {
        "user" => 'u',
        "group" => 'g',
        "chdir" => 'D',
        "preserve-env" => 'E',
        "login" => 'i',
        "shell" => 's',
        "edit" => 'e',
        "reset-timestamp" => 'k',
        "remove-timestamp" => 'K',
        "validate" => 'v',
        "list" => 'l',
        "version" => 'V',
        "help" => '?',
        "non-interactive" | "no-update" => 'n',
        "set-home" => 'H',
        "stdin" => 'S',
        "askpass" => 'A',
        "background" => 'b',
        "bell" => 'B',
        "preserve-groups" => 'P',
        "prompt" => 'p',
        "close-from" => 'C',
        "chroot" => 'R',
        "command-timeout" => 'T',
        "other-user" => 'U',
        "role" => 'r',
        "type" => 't',
        "host" => 'h',
        _ => return None,
    })
}

fn preserve_names(names: &OsString) -> Preserve {
    let names = names.to_string_lossy();
    Preserve::Names(names.split(',').map(str::to_owned).collect())
}

fn parse_user(text: String) -> Result<User, String> {
    match text.strip_prefix('#') {
        Some(id) => {
            let uid = id
                .parse()
                .map_err(|_| format!("user `{text}` is not a number"))?;
            Ok(User::Ids { uid, gid: uid })
        }
        None if text == "root" => Ok(User::Root),
        None if text == "agent" => Ok(User::Agent),
        None => Ok(User::Name { name: text }),
    }
}

/// The two halves of a `NAME=value` word.
fn assignment(word: &OsString) -> Option<(OsString, OsString)> {
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    let (name, value) = bytes.split_at_checked(at)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let first = name.first()?;
    if first.is_ascii_digit() || !name.iter().all(plain) {
        return None;
    }
    let value = value.get(1..)?;
    Some((
        OsString::from_vec(name.to_vec()),
        OsString::from_vec(value.to_vec()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn run(line: &str) -> Run {
        match parse(words(line)) {
            Ok(Invocation::Run(run)) => *run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_plain_command_runs_as_root() {
        let run = run("apt-get install -y jq");
        assert_eq!(run.user, User::Root);
        assert_eq!(run.command, words("apt-get install -y jq"));
        assert_eq!(run.preserve, Preserve::Terminal);
    }

    #[test]
    fn options_end_at_the_command() {
        let run = run("-n -u www ls -u x");
        assert_eq!(run.user, User::Name { name: "www".into() });
        assert_eq!(run.command, words("ls -u x"));
    }

    #[test]
    fn values_may_be_glued_or_follow() {
        for line in [
            "-u#33 id",
            "-u #33 id",
            "--user=#33 id",
            "--user #33 id",
            "-nu #33 id",
        ] {
            assert_eq!(run(line).user, User::Ids { uid: 33, gid: 33 }, "{line}");
        }
    }

    #[test]
    fn two_dashes_end_the_options() {
        assert_eq!(run("-- -x y").command, words("-x y"));
    }

    #[test]
    fn assignments_before_the_command_are_environment() {
        let run = run("-E A=1 B_2=x=y env C=3");
        assert_eq!(run.preserve, Preserve::All);
        assert_eq!(
            run.set,
            [("A".into(), "1".into()), ("B_2".into(), "x=y".into())]
        );
        assert_eq!(run.command, words("env C=3"));
    }

    #[test]
    fn a_word_that_only_looks_like_an_assignment_is_the_command() {
        assert_eq!(run("./a=b c").command, words("./a=b c"));
        assert_eq!(run("1A=b").command, words("1A=b"));
    }

    #[test]
    fn shells_need_no_command() {
        assert_eq!(run("-i").shell, Shell::Login);
        assert_eq!(run("-s").shell, Shell::Plain);
        assert_eq!(
            run("-iu www whoami").user,
            User::Name { name: "www".into() }
        );
        assert_eq!(
            run("--preserve-env=A,B x").preserve,
            Preserve::Names(vec!["A".into(), "B".into()])
        );
    }

    #[test]
    fn what_only_asks_runs_nothing() {
        assert_eq!(parse(words("-v")), Ok(Invocation::Nothing));
        assert_eq!(parse(words("-nv")), Ok(Invocation::Nothing));
        assert_eq!(parse(words("-K")), Ok(Invocation::Nothing));
        assert_eq!(parse(words("-l")), Ok(Invocation::List));
        assert_eq!(parse(words("-V")), Ok(Invocation::Version));
        assert_eq!(parse(words("")), Ok(Invocation::Usage));
        assert_eq!(parse(words("-h")), Ok(Invocation::Usage));
        assert_eq!(parse(words("--help")), Ok(Invocation::Usage));
        assert_eq!(run("-k id").command, words("id"));
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        assert!(parse(words("--frob id")).unwrap_err().contains("--frob"));
        assert!(parse(words("-Z id")).unwrap_err().contains("-Z"));
        assert!(parse(words("-u")).is_err());
        assert!(parse(words("-e file")).is_err());
        assert!(parse(words("-u #x id")).is_err());
    }
}
