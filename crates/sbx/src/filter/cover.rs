//! A screen of our own over that of the sandbox.
//!
//! Over an ordinary screen it is the terminal's alternate one, and the
//! terminal itself brings back what was there. A program that uses that
//! screen already draws it anew.

/// What is shown over the sandbox's screen.
#[derive(Default, Debug)]
pub(super) struct Cover {
    shown: Option<Over>,
}

/// What is below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    Ordinary,
    Alternate,
}

/// How the sandbox's program left the terminal.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Below {
    pub(super) alternate: bool,
    pub(super) cursor_hidden: bool,
    /// It holds back what it draws until it is whole.
    pub(super) synchronised: bool,
}

impl Cover {
    pub(super) fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Shows `screen`, in place of what was shown before.
    pub(super) fn show(&mut self, screen: &[u8], below: Below, output: &mut Vec<u8>) {
        if self.shown.is_none() {
            let over = if below.alternate {
                Over::Alternate
            } else {
                output.extend_from_slice(b"\x1b[?1049h");
                Over::Ordinary
            };
            self.shown = Some(over);
            if below.synchronised {
                output.extend_from_slice(b"\x1b[?2026l");
            }
            output.extend_from_slice(b"\x1b[?25l");
        }
        // Plain text: no colours, no line drawing, no selection of a font.
        output.extend_from_slice(b"\x1b[0m\x0f\x1b(B\x1b[H\x1b[2J");
        output.extend_from_slice(screen);
    }

    /// Brings the screen below back; true where its program has to draw it.
    pub(super) fn lift(&mut self, below: Below, output: &mut Vec<u8>) -> bool {
        let Some(over) = self.shown.take() else {
            return false;
        };
        output.extend_from_slice(match over {
            Over::Ordinary => b"\x1b[0m\x1b[?1049l",
            Over::Alternate => b"\x1b[0m\x1b[H\x1b[2J",
        });
        if !below.cursor_hidden {
            output.extend_from_slice(b"\x1b[?25h");
        }
        if below.synchronised {
            output.extend_from_slice(b"\x1b[?2026h");
        }
        over == Over::Alternate
    }
}
