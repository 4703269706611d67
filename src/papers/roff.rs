//! Text for roff: fonts, and what keeps each character what it is.

pub fn roman(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str(r"\e"),
            '-' => escaped.push_str(r"\-"),
            '\'' => escaped.push_str(r"\(aq"),
            c if c.is_ascii() => escaped.push(c),
            c => escaped.push_str(&format!(r"\[u{:04X}]", u32::from(c))),
        }
    }
    escaped
}

pub fn bold(text: &str) -> String {
    format!(r"\fB{}\fR", roman(text))
}

pub fn italic(text: &str) -> String {
    format!(r"\fI{}\fR", roman(text))
}

/// What a line of a page's source should have at most.
pub const COLUMNS: usize = 80;

/// Lines of at most so many bytes.
pub fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let is_first = column == 0;
        column += 1 + word.len();
        match column <= COLUMNS + 1 {
            true if is_first => {}
            true => lines.push(' '),
            false => {
                lines.push('\n');
                column = 1 + word.len();
            }
        }
        lines.push_str(word);
    }
    without_requests(&lines)
}

/// Lines of which none begins as a request does.
pub fn without_requests(lines: &str) -> String {
    let lines = lines.lines().map(|line| match line.starts_with('.') {
        true => format!(r"\&{line}\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}
