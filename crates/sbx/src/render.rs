//! The one door to standard output and standard error.
//!
//! Data goes to standard output, all else to standard error. Text that may
//! come from a sandbox is escaped before it is shown.

pub(crate) mod audit;
pub(crate) mod block;
mod policy;
pub(crate) mod progress;
pub(crate) mod question;
pub(crate) mod reply;
pub(crate) mod table;
mod yaml;

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use sbx_engine::command::{Error, Reply};
use serde::Serialize;

use crate::cli::{ColorChoice, Format, GlobalFlags, ProgressChoice};
use crate::environment::Environment;

/// Version of the JSON documents.
pub(crate) const VERSION: u32 = 1;

/// How things are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// The form of answers and errors.
    pub(crate) format: Format,
    /// `--quiet`.
    pub(crate) quiet: bool,
    /// Whether standard output takes colours.
    out_colors: bool,
    /// Whether standard error takes colours.
    err_colors: bool,
    /// How long steps are shown.
    pub(crate) progress: ProgressChoice,
    /// Whether a list of rules shows every one.
    pub(crate) wide: bool,
    /// Whether errors are shown with their codes.
    debug: bool,
}

/// A document of ours.
#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// An error as a document.
#[derive(Serialize)]
struct Failure<'a> {
    error: &'a Error,
}

impl Screen {
    /// What the flags and the environment say.
    pub(crate) fn new(flags: &GlobalFlags, environment: &Environment) -> Self {
        let dumb = environment.text("TERM") == Some("dumb");
        let auto = environment.value("NO_COLOR").is_none() && !dumb;
        let colors = |terminal: bool| match flags.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && auto,
        };
        let terminal = io::stderr().is_terminal();
        Self {
            format: flags.format(),
            quiet: flags.quiet,
            out_colors: colors(io::stdout().is_terminal()),
            err_colors: colors(terminal),
            wide: false,
            debug: flags.debug || environment.text("SBX_LOG") == Some("debug"),
            progress: match flags.progress {
                ProgressChoice::Auto if flags.format() == Format::Json => ProgressChoice::None,
                ProgressChoice::Auto if !terminal || dumb => ProgressChoice::Plain,
                other => other,
            },
        }
    }

    /// What can be said before the flags are known.
    pub(crate) fn plain(json: bool) -> Self {
        let format = if json { Format::Json } else { Format::Table };
        let (out_colors, err_colors) = (false, false);
        Self {
            format,
            quiet: false,
            out_colors,
            err_colors,
            progress: ProgressChoice::None,
            wide: false,
            debug: false,
        }
    }

    /// Shows a reply.
    ///
    /// # Errors
    /// What standard output says to being written to.
    pub(crate) fn reply(&self, reply: &Reply) -> io::Result<()> {
        let text = match self.format {
            Format::Table => reply::text(reply, self.quiet, self.wide, self.out()),
            Format::Json if matches!(reply, Reply::Session(_)) => return Ok(()),
            Format::Json => json(&Document {
                version: VERSION,
                body: reply,
            }),
            Format::Yaml if matches!(reply, Reply::Session(_)) => return Ok(()),
            Format::Yaml => {
                let document = Document {
                    version: VERSION,
                    body: reply,
                };
                serde_json::to_value(&document)
                    .map(|value| yaml::text(&value))
                    .unwrap_or_default()
            }
        };
        self.data(text.as_bytes())?;
        if let Reply::Acted(acted) = reply
            && self.format == Format::Table
        {
            for failed in &acted.failed {
                self.error(&failed.error);
            }
        }
        Ok(())
    }

    /// Writes data as it is to standard output.
    ///
    /// # Errors
    /// What standard output says; a reader that is gone is no error.
    pub(crate) fn data(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Shows why something failed.
    pub(crate) fn error(&self, error: &Error) {
        if self.format == Format::Json {
            return self.say(&json_line(&Failure { error }));
        }
        let mut text = format!(
            "{} {}\n",
            self.bold("error:", AnsiColor::Red),
            escape(&error.message)
        );
        for cause in &error.causes {
            text += &format!(
                "{} {}\n",
                self.bold("cause:", AnsiColor::Red),
                escape(cause)
            );
        }
        if self.debug {
            let code = serde_json::to_value(error.code).unwrap_or_default();
            let code = code.as_str().unwrap_or("unknown");
            text += &format!("{} {code}\n", self.bold("code:", AnsiColor::Red));
        }
        if let Some(hint) = &error.hint {
            text += &format!("{} {}\n", self.bold("hint:", AnsiColor::Cyan), escape(hint));
        }
        self.say(&text);
    }

    /// Shows something the user should know.
    pub(crate) fn warn(&self, text: &str) {
        if self.format == Format::Json {
            return self.say(&json_line(&serde_json::json!({ "warning": text })));
        }
        self.say(&format!(
            "{} {}\n",
            self.bold("warning:", AnsiColor::Yellow),
            escape(text)
        ));
    }

    /// Writes to standard error. A broken one is nobody's fault and nothing
    /// to stop for.
    pub(crate) fn say(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Paints for standard output.
    pub(crate) fn out(&self) -> Paint {
        Paint(self.out_colors)
    }

    /// Paints for standard error.
    pub(crate) fn err(&self) -> Paint {
        Paint(self.err_colors)
    }

    fn bold(&self, text: &str, color: AnsiColor) -> String {
        self.err().with(text, color.on_default().bold())
    }
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(false)
    }

    /// `text` in a style.
    pub(crate) fn with(self, text: &str, style: Style) -> String {
        if self.0 {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// `text` in a colour.
    pub(crate) fn color(self, text: &str, color: AnsiColor) -> String {
        self.with(text, color.on_default())
    }
}

/// A value as a JSON document for people and programs.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// A value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// `text` without anything a terminal would obey: control characters, and
/// characters that reorder or hide text, are written out.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_sandbox_cannot_command_the_terminal() {
        assert_eq!(
            escape("a\u{1b}[2J\r\nb\u{9b}1m"),
            "a\\u{1b}[2J\\r\\nb\\u{9b}1m"
        );
        assert_eq!(escape("abc\u{202e}gpj"), "abc\\u{202e}gpj");
        assert_eq!(escape("Grüße 日本 🦀"), "Grüße 日本 🦀");
    }
}
