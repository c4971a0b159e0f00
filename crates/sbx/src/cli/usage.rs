//! What clap says about a wrong command line, in our own words.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use sbx_engine::command::{Code, Error};

use crate::render::escape;

/// Why there is no command to carry out.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command line is wrong.
    Wrong(Error),
    /// Help was asked for: what to print.
    Help(String),
}

/// Translates clap's verdict.
pub(super) fn translate(error: &clap::Error) -> Stop {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let flag = || escape(&context(ContextKind::InvalidArg).unwrap_or_default());
    let message = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Stop::Help(error.render().to_string());
        }
        ErrorKind::UnknownArgument => format!("no flag or argument `{}` here", flag()),
        ErrorKind::InvalidValue => match context(ContextKind::InvalidValue) {
            Some(value) if !value.is_empty() => {
                format!("`{}` is no value of {}", escape(&value), flag())
            }
            _ => format!("{} needs a value", flag()),
        },
        ErrorKind::MissingRequiredArgument => {
            let missing = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(missing)) => missing.join(" "),
                _ => flag(),
            };
            format!("{missing} is missing")
        }
        ErrorKind::ArgumentConflict => {
            let other = context(ContextKind::PriorArg).unwrap_or_default();
            if other == flag() || other.is_empty() {
                format!("{} is given twice", flag())
            } else {
                format!("{} and {other} contradict each other", flag())
            }
        }
        _ => first_line(&error.render().to_string()),
    };
    Stop::Wrong(Error::new(Code::Usage, message).hint(hint(error, &context)))
}

fn hint(error: &clap::Error, context: &dyn Fn(ContextKind) -> Option<String>) -> String {
    let near = context(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedValue));
    if let Some(near) = near {
        return format!("did you mean `{near}`?");
    }
    if let Some(ContextValue::Strings(values)) = error.get(ContextKind::ValidValue)
        && !values.is_empty()
    {
        return format!("it is one of {}", values.join(", "));
    }
    match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => {
            first_line(&usage.to_string()).replace("Usage: ", "usage: ")
        }
        _ => "`sbx --help` lists the commands".to_owned(),
    }
}

fn first_line(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    escape(line.trim().trim_start_matches("error: "))
}
