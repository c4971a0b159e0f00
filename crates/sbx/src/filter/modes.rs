//! Modes of the terminal that must not outlive the session.

use super::cover::Below;

/// Private modes that are off in a terminal as a shell leaves it, by number:
/// application keys, mouse reports in all forms, focus reports, alternate
/// screens, bracketed paste, synchronised output, reports of colour and size.
const OFF: &[u16] = &[
    1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026, 2031,
    2048,
];
/// The one that is on: a visible cursor.
const CURSOR: u16 = 25;

/// What of it the sandbox changed.
#[derive(Default, Debug)]
pub(super) struct Modes {
    /// Modes of [`OFF`] that are on now, in the order they were switched on.
    on: Vec<u16>,
    cursor_hidden: bool,
    /// How often the kitty keyboard was pushed, at most 32.
    keyboards: u8,
}

impl Modes {
    /// Follows a control sequence that is let through.
    pub(super) fn follow(&mut self, body: &[u8], last: u8) {
        match (body.split_first(), last) {
            (Some((b'?', parameters)), b'h' | b'l') => {
                for digits in parameters.split(|byte| *byte == b';') {
                    let number = std::str::from_utf8(digits)
                        .ok()
                        .and_then(|text| text.parse().ok());
                    self.set(number.unwrap_or(0), last == b'h');
                }
            }
            (Some((b'>', _)), b'u') => self.keyboards = (self.keyboards + 1).min(32),
            (Some((b'<', count)), b'u') => {
                let count = std::str::from_utf8(count)
                    .ok()
                    .and_then(|text| text.parse().ok());
                self.keyboards = self.keyboards.saturating_sub(count.unwrap_or(1));
            }
            _ => {}
        }
    }

    fn set(&mut self, mode: u16, on: bool) {
        if mode == CURSOR {
            self.cursor_hidden = !on;
        }
        self.on.retain(|known| *known != mode);
        if on && OFF.contains(&mode) {
            self.on.push(mode);
        }
    }

    /// How the screen is that something of ours is to be shown over.
    pub(super) fn below(&self) -> Below {
        let is_on = |mode: u16| self.on.contains(&mode);
        Below {
            alternate: [47, 1047, 1049].into_iter().any(is_on),
            cursor_hidden: self.cursor_hidden,
            synchronised: is_on(2026),
        }
    }

    /// Appends what brings the terminal back.
    pub(super) fn switch_off(&mut self, output: &mut Vec<u8>) {
        let Self {
            on,
            cursor_hidden,
            keyboards,
        } = std::mem::take(self);
        if keyboards > 0 {
            output.extend_from_slice(format!("\x1b[<{keyboards}u").as_bytes());
        }
        for mode in on.iter().rev() {
            output.extend_from_slice(format!("\x1b[?{mode}l").as_bytes());
        }
        if cursor_hidden {
            output.extend_from_slice(b"\x1b[?25h");
        }
    }
}
