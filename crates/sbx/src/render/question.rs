//! The text form of what waits for the user.

use sbx_engine::command::{
    AnsweredReply, Given, PendingReply, Prompt, Question, QuestionId, QuestionOf, Saying, TtySize,
};

use super::table::columns;
use super::{Paint, escape};

/// What waits for an answer, and how to give one.
pub(super) fn pending(pending: &PendingReply, quiet: bool, paint: Paint) -> String {
    if quiet {
        let ids = pending.questions.iter();
        return ids.map(|one| format!("{}\n", one.id)).collect();
    }
    let Some(first) = pending.questions.first() else {
        return "nothing waits for an answer\n".to_owned();
    };
    let row = |one: &QuestionOf| {
        vec![
            one.id.to_string(),
            escape(&one.question.about()),
            escape(&one.question.rule),
            format!("{} s", one.question.seconds_left),
        ]
    };
    let rows: Vec<_> = pending.questions.iter().map(row).collect();
    let table = columns(&["ID", "WAITS FOR", "RULE", "LEFT"], &rows);
    let (head, lines) = table.split_once('\n').unwrap_or_default();
    let head = paint.with(head, anstyle::Style::new().bold());
    let id = &first.id;
    format!("{head}\n{lines}answer with `sbx policy approve {id}` or `sbx policy dismiss {id}`\n")
}

/// What was said.
pub(super) fn answered(answered: &AnsweredReply) -> String {
    let word = match answered.answer {
        Given::Approved => "approved",
        Given::Dismissed => "dismissed",
    };
    let id = &answered.id;
    match &answered.rule {
        Some(rule) => format!("{word} {id}; from now on: {}\n", escape(rule)),
        None => format!("{word} {id}\n"),
    }
}

/// Asks over the screen of a session.
#[derive(Debug)]
pub(crate) struct Questions;

/// What `^C` is in raw mode.
const INTERRUPT: u8 = 3;

impl Prompt for Questions {
    fn screen(&self, id: &QuestionId, question: &Question, keys: bool, size: TtySize) -> Vec<u8> {
        let sandbox = &id.sandbox;
        let about = escape(&question.what());
        let host = question.host.as_ref();
        let host = host.map(|host| format!("    by the name {host}"));
        let asked = [
            format!("sbx: the sandbox {sandbox} asks whether it may reach"),
            String::new(),
            format!("    {about}"),
        ];
        let choices = [
            String::new(),
            format!("rule: {}", escape(&question.rule)),
            String::new(),
            "    y  yes, this time".to_owned(),
            "    a  always, in this sandbox".to_owned(),
            "    n  no".to_owned(),
            String::new(),
            match keys {
                true => "Press y, a or n. Without an answer it is denied.".to_owned(),
                false => "A moment, so that no key is pressed by mistake …".to_owned(),
            },
        ];
        // What is longer than the screen is wide is cut in the middle: both
        // ends of a name matter.
        let width = usize::from(size.cols).max(20);
        let lines = asked.into_iter().chain(host).chain(choices);
        let fitted = lines.map(|line| fit(&line, width));
        fitted.collect::<Vec<_>>().join("\r\n").into_bytes()
    }

    fn answer(&self, keys: &[u8]) -> Option<Saying> {
        match keys {
            b"y" | b"Y" => Some(Saying::Once),
            b"a" | b"A" => Some(Saying::Always),
            b"n" | b"N" | [INTERRUPT] => Some(Saying::No),
            // Keyboards that report keys by number.
            b"\x1b[121u" => Some(Saying::Once),
            b"\x1b[97u" => Some(Saying::Always),
            b"\x1b[110u" | b"\x1b[99;5u" => Some(Saying::No),
            _ => None,
        }
    }
}

fn fit(line: &str, width: usize) -> String {
    let characters: Vec<char> = line.chars().collect();
    if characters.len() <= width {
        return line.to_owned();
    }
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept.div_ceil(2), kept / 2);
    let end = characters.len().saturating_sub(tail);
    let head = characters.iter().take(head);
    head.chain(&['…'])
        .chain(characters.iter().skip(end))
        .collect()
}

#[cfg(test)]
mod tests {
    use sbx_engine::command::Question;

    use super::*;

    #[test]
    fn a_question_on_the_screen_is_cut_in_the_middle_and_drives_no_terminal() {
        let question = Question {
            number: 7,
            resource: format!("{}.example:443", "a".repeat(60)).parse().unwrap(),
            host: None,
            protocol: sbx_spec::Transport::Tcp,
            method: Some("GET".to_owned()),
            path: Some(format!("/\u{1b}[2J{}/end", "b".repeat(600))),
            rule: "user ask **".to_owned(),
            seconds_left: 12,
        };
        let id = "box:7".parse().unwrap();
        let size = TtySize { rows: 24, cols: 40 };
        let shown = |keys| String::from_utf8(Questions.screen(&id, &question, keys, size)).unwrap();
        let text = shown(true);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert!(
            text.contains("GET aaa") && text.contains("bb/end\r\n"),
            "{text}"
        );
        assert!(text.contains("Press y, a or n.") && !shown(false).contains("Press"));
    }

    #[test]
    fn a_key_is_an_answer_and_a_report_of_a_mouse_is_none() {
        for (keys, saying) in [
            (&b"y"[..], Some(Saying::Once)),
            (b"A", Some(Saying::Always)),
            (b"\x03", Some(Saying::No)),
            (b"\x1b[121u", Some(Saying::Once)),
            (b"\x1b[<0;1;1M", None),
            (b"yes", None),
            (b"\r", None),
        ] {
            assert_eq!(Questions.answer(keys), saying, "{keys:?}");
        }
    }

    #[test]
    fn a_question_is_one_line_with_its_name_whatever_a_guest_put_into_it() {
        let question = QuestionOf {
            id: "box:7".parse().unwrap(),
            sandbox: "box".parse().unwrap(),
            question: Question {
                number: 7,
                resource: "192.0.2.1:443".parse().unwrap(),
                host: Some("a.example".parse().unwrap()),
                protocol: sbx_spec::Transport::Tcp,
                method: Some("GET".to_owned()),
                path: Some("/\u{1b}[2J".to_owned()),
                rule: "user ask **".to_owned(),
                seconds_left: 12,
            },
        };
        let reply = PendingReply {
            questions: vec![question],
        };
        let text = pending(&reply, false, Paint::none());
        assert!(text.contains("GET 192.0.2.1:443/"), "{text}");
        assert!(text.contains("(by the name a.example)"), "{text}");
        assert!(
            !text.contains('\u{1b}') && text.lines().count() == 3,
            "{text:?}"
        );
        assert_eq!(pending(&reply, true, Paint::none()), "box:7\n");
        let none = pending(&PendingReply::default(), false, Paint::none());
        assert_eq!(none, "nothing waits for an answer\n");
    }
}
