//! What a sandbox may say to the caller's terminal.
//!
//! A terminal obeys what it is sent. This filter lets text and the sequences
//! of ordinary programs through byte for byte and drops whole sequences that
//! reach beyond the screen:
//!
//! - clipboard and files: OSC 52, OSC 1337 (iTerm2), OSC 5113 and 5522
//!   (kitty), every APC (kitty graphics reads and deletes files by name),
//!   media copy (CSI i);
//! - answers with data of the sandbox's choice, which the terminal then
//!   *types*, also after the session ended: title and icon reports (CSI 20 t,
//!   CSI 21 t), font queries (OSC 50), DECRQSS and XTGETTCAP (DCS), answerback
//!   (ENQ), notifications with an identifier (OSC 99), checksums of the screen
//!   (DECRQCRA), state reports (DECRQPSR, DECRQTSR);
//! - commands to the program that shows the terminal: user-defined keys (DCS),
//!   OSC 51 (Emacs), ConEmu's OSC 9 but progress, passthrough of multiplexers
//!   (DCS tmux, APC, ESC k), directories of the sandbox passed off as the
//!   host's (OSC 7, OSC 633);
//! - what would make the terminal read bytes otherwise than this filter:
//!   ESC % (leaving UTF-8), ESC SP (8-bit answers), VT52 mode.
//!
//! Kept, because programs need them and the answers are numbers or fixed: DA1,
//! DA2, DA3, XTVERSION, cursor position, mode queries (DECRQM), the kitty
//! keyboard query, sizes (CSI 14, 16, 18 t), colours and their queries (OSC 4,
//! 5, 10 to 19), titles, hyperlinks, progress, shell marks, sixel images.
//!
//! What a program switched on and left on when it was killed (the alternate
//! screen, mouse reports, bracketed paste, the kitty keyboard) is switched off
//! at the end of the stream: the host's shell would read its reports as typing.
//!
//! Operating system commands and device control strings are an allow list:
//! one that is not known here is dropped, whatever a terminal of next year
//! makes of it. A sequence is held until it is complete, so that a terminal
//! never sees half of one; what is held is bounded ([`MAX_STRING`]). The
//! terminal is taken to be in UTF-8 mode; C1 controls are recognised in their
//! UTF-8 form, and as lone bytes become U+FFFD.
//!
//! Sources: ECMA-48; XTerm Control Sequences (invisible-island.net/xterm);
//! the kitty, iTerm2 and ConEmu protocol documents.

mod cover;
mod decide;
mod modes;
#[cfg(test)]
mod tests;
mod token;

use sbx_engine::command::OutputFilter;

use cover::{Below, Cover};
use decide::{csi_allowed, osc_allowed};
use modes::Modes;
use token::{Token, Tokens};

/// Longest control string that is let through, in bytes: a hyperlink of a
/// long address fits. Longer ones are dropped.
const MAX_STRING: usize = 8 << 10;
/// Longest other sequence.
const MAX_SEQUENCE: usize = 256;

const BEL: u8 = 0x07;
const ENQ: u8 = 0x05;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;
/// The string terminator among the C1 controls.
const ST: u8 = 0x9c;

/// Lets everything through, for pipes and `--raw-terminal`.
#[derive(Default, Debug)]
pub(crate) struct Passthrough(Cover);

impl OutputFilter for Passthrough {
    fn filter(&mut self, input: &[u8], output: &mut Vec<u8>) {
        output.extend_from_slice(input);
    }

    fn finish(&mut self, output: &mut Vec<u8>) {
        self.uncover(output);
    }

    fn cover(&mut self, screen: &[u8], output: &mut Vec<u8>) {
        self.0.show(screen, Below::default(), output);
    }

    fn uncover(&mut self, output: &mut Vec<u8>) -> bool {
        // What its program uses is not known: it may as well draw anew.
        let shown = self.0.is_shown();
        self.0.lift(Below::default(), output);
        shown
    }
}

/// The filter in front of a terminal.
#[derive(Debug)]
pub(crate) struct TerminalFilter {
    tokens: Tokens,
    state: State,
    /// The bytes of the sequence that is being read, its introducer
    /// included.
    held: Vec<u8>,
    /// Where the part behind the introducer begins in `held`.
    body: usize,
    /// What the sandbox switched on.
    modes: Modes,
    /// What of ours is over its screen.
    cover: Cover,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Text.
    Ground,
    /// Behind ESC, with or without intermediates.
    Escape,
    /// Behind CSI.
    Control,
    /// In an OSC.
    Command { sound: bool },
    /// In a DCS whose kind is not known yet.
    Device { sound: bool },
    /// In a sixel image, which is let through as it comes.
    Sixel,
    /// In a string that is dropped.
    Dropped,
    /// Behind an ESC that ends a string if `\` follows.
    Ending(Ended),
}

/// What an ESC may be about to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Command { sound: bool },
    Device { sound: bool },
    Sixel,
    Dropped,
}

impl OutputFilter for TerminalFilter {
    fn filter(&mut self, input: &[u8], output: &mut Vec<u8>) {
        for byte in input {
            let mut tokens = std::mem::take(&mut self.tokens);
            tokens.push(*byte, |token| self.token(token, output));
            self.tokens = tokens;
        }
    }

    fn finish(&mut self, output: &mut Vec<u8>) {
        self.uncover(output);
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.finish(|token| self.token(token, output));
        if matches!(self.state, State::Sixel | State::Ending(Ended::Sixel)) {
            output.extend_from_slice(b"\x1b\\");
        }
        self.ground();
        self.modes.switch_off(output);
    }

    fn cover(&mut self, screen: &[u8], output: &mut Vec<u8>) {
        if matches!(self.state, State::Sixel | State::Ending(Ended::Sixel)) {
            // An image that is on its way cannot be taken up again.
            output.extend_from_slice(b"\x1b\\");
            self.state = State::Dropped;
        }
        self.cover.show(screen, self.modes.below(), output);
    }

    fn uncover(&mut self, output: &mut Vec<u8>) -> bool {
        self.cover.lift(self.modes.below(), output)
    }
}

impl TerminalFilter {
    /// A filter at the beginning of a stream.
    pub(crate) fn new() -> Self {
        Self {
            tokens: Tokens::default(),
            state: State::Ground,
            held: Vec::new(),
            body: 0,
            modes: Modes::default(),
            cover: Cover::default(),
        }
    }

    fn ground(&mut self) {
        self.state = State::Ground;
        self.held.clear();
        // What a long title took is not kept for the rest of the session.
        self.held.shrink_to(MAX_SEQUENCE);
    }

    fn token(&mut self, token: Token, output: &mut Vec<u8>) {
        match self.state {
            State::Ground => self.text(token, output),
            State::Escape => self.escape(token, output),
            State::Control => self.control(token, output),
            State::Command { .. } | State::Device { .. } | State::Dropped => {
                self.string(token, output);
            }
            State::Sixel => self.sixel(token, output),
            State::Ending(ended) => self.ending(ended, token, output),
        }
    }

    fn text(&mut self, token: Token, output: &mut Vec<u8>) {
        match token {
            Token::Ascii(ENQ) => {}
            Token::Ascii(ESC) => self.hold(State::Escape, &[ESC]),
            Token::Ascii(byte) => output.push(byte),
            Token::C1(byte) => self.c1(byte, output),
            Token::Char(char) => output.extend_from_slice(char.bytes()),
            // As a lone byte it means nothing in UTF-8, and a command to a
            // terminal that is not in UTF-8.
            Token::Stray(0x80..=0x9f) => output.extend_from_slice("\u{fffd}".as_bytes()),
            Token::Stray(byte) => output.push(byte),
        }
    }

    fn c1(&mut self, byte: u8, output: &mut Vec<u8>) {
        let bytes = [0xc2, byte];
        match byte {
            0x90 => self.hold(State::Device { sound: true }, &bytes),
            0x98 | 0x9e | 0x9f => self.hold(State::Dropped, &bytes),
            0x9b => self.hold(State::Control, &bytes),
            0x9d => self.hold(State::Command { sound: true }, &bytes),
            _ => output.extend_from_slice(&bytes),
        }
    }

    /// Begins to hold a sequence with this introducer.
    fn hold(&mut self, state: State, introducer: &[u8]) {
        self.held.clear();
        self.held.extend_from_slice(introducer);
        self.body = self.held.len();
        self.state = state;
    }

    /// The part of what is held behind the introducer.
    fn held_body(&self) -> &[u8] {
        self.held.get(self.body..).unwrap_or_default()
    }

    /// Drops what is held; `token` stands in text.
    fn abandon(&mut self, token: Token, output: &mut Vec<u8>) {
        self.ground();
        if !matches!(token, Token::Ascii(CAN | SUB)) {
            self.text(token, output);
        }
    }

    fn escape(&mut self, token: Token, output: &mut Vec<u8>) {
        let Token::Ascii(byte) = token else {
            return self.abandon(token, output);
        };
        let first = self.held_body().is_empty();
        match byte {
            b'[' if first => self.hold(State::Control, b"\x1b["),
            b']' if first => self.hold(State::Command { sound: true }, b"\x1b]"),
            b'P' if first => self.hold(State::Device { sound: true }, b"\x1bP"),
            b'X' | b'^' | b'_' | b'k' if first => self.hold(State::Dropped, &[]),
            0x20..=0x2f if self.held.len() < MAX_SEQUENCE => self.held.push(byte),
            0x30..=0x7e => {
                let drops = matches!(self.held_body().first(), Some(b'%' | b' '));
                if !drops {
                    output.append(&mut self.held);
                    output.push(byte);
                }
                self.ground();
            }
            _ => self.abandon(token, output),
        }
    }

    fn control(&mut self, token: Token, output: &mut Vec<u8>) {
        let Token::Ascii(byte) = token else {
            return self.abandon(token, output);
        };
        match byte {
            0x20..=0x3f => {
                if self.held.len() < MAX_SEQUENCE {
                    self.held.push(byte);
                } else {
                    // The rest of an endless sequence is plain text.
                    self.ground();
                }
            }
            0x40..=0x7e => {
                if csi_allowed(self.held_body(), byte) {
                    let body = self.held.get(self.body..).unwrap_or_default();
                    self.modes.follow(body, byte);
                    output.append(&mut self.held);
                    output.push(byte);
                }
                self.ground();
            }
            _ => self.abandon(token, output),
        }
    }

    fn string(&mut self, token: Token, output: &mut Vec<u8>) {
        match token {
            Token::Ascii(CAN | SUB) => self.ground(),
            Token::Ascii(ESC) => {
                self.state = State::Ending(match self.state {
                    State::Command { sound } => Ended::Command { sound },
                    State::Device { sound } => Ended::Device { sound },
                    _ => Ended::Dropped,
                });
            }
            Token::Ascii(BEL) if matches!(self.state, State::Command { .. }) => {
                self.complete(&[BEL], output);
            }
            Token::C1(ST) => self.complete(&[0xc2, ST], output),
            Token::Ascii(byte @ 0x20..=0x7e) => self.grow(&[byte], output),
            Token::Char(char) => self.grow(char.bytes(), output),
            // Nothing else belongs in a string: terminals disagree on what
            // it means there, so the string is not let through.
            Token::Ascii(_) | Token::C1(_) | Token::Stray(_) => self.spoil(),
        }
    }

    fn spoil(&mut self) {
        match &mut self.state {
            State::Command { sound } | State::Device { sound } => *sound = false,
            _ => {}
        }
    }

    fn grow(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        if self.state == State::Dropped {
            return;
        }
        if self.held.len() + bytes.len() > MAX_STRING {
            return self.spoil();
        }
        self.held.extend_from_slice(bytes);
        match self.state {
            State::Device { sound: true } => self.device_header(output),
            // The Linux console sets colours without a terminator.
            State::Command { .. } if decide::is_linux_palette(self.held_body()) => self.ground(),
            _ => {}
        }
    }

    /// Whether a device control string is a sixel image, once its header is
    /// complete: parameters and `q` and nothing between.
    fn device_header(&mut self, output: &mut Vec<u8>) {
        let body = self.held_body();
        let numbers = |byte: &u8| byte.is_ascii_digit() || *byte == b';';
        if let Some((b'q', parameters)) = body.split_last()
            && parameters.iter().all(numbers)
        {
            output.append(&mut self.held);
            self.ground();
            self.state = State::Sixel;
        }
    }

    fn sixel(&mut self, token: Token, output: &mut Vec<u8>) {
        match token {
            Token::Ascii(ESC) => self.state = State::Ending(Ended::Sixel),
            Token::C1(ST) => {
                output.extend_from_slice(&[0xc2, ST]);
                self.ground();
            }
            Token::Ascii(byte @ (0x20..=0x7e | b'\r' | b'\n')) => output.push(byte),
            // The image ends here; the rest of its string is dropped.
            Token::Ascii(_) | Token::Char(_) | Token::C1(_) | Token::Stray(_) => {
                output.extend_from_slice(b"\x1b\\");
                self.ground();
                if !matches!(token, Token::Ascii(CAN | SUB)) {
                    self.state = State::Dropped;
                }
            }
        }
    }

    fn ending(&mut self, ended: Ended, token: Token, output: &mut Vec<u8>) {
        let ends = token == Token::Ascii(b'\\');
        if ended == Ended::Sixel {
            output.extend_from_slice(b"\x1b\\");
            self.ground();
        } else if ends {
            self.state = match ended {
                Ended::Command { sound } => State::Command { sound },
                Ended::Device { sound } => State::Device { sound },
                Ended::Sixel | Ended::Dropped => State::Dropped,
            };
            self.complete(b"\x1b\\", output);
        }
        if !ends {
            // The string is given up, and another sequence begins with the
            // same ESC.
            self.hold(State::Escape, &[ESC]);
            self.escape(token, output);
        }
    }

    /// The string is complete: lets it through, or drops it.
    fn complete(&mut self, terminator: &[u8], output: &mut Vec<u8>) {
        let allowed = match self.state {
            State::Command { sound: true } => osc_allowed(self.held_body()),
            State::Device { sound: true } => decide::dcs_allowed(self.held_body()),
            _ => false,
        };
        if allowed {
            output.append(&mut self.held);
            output.extend_from_slice(terminator);
        }
        self.ground();
    }
}
