//! What the headers declare. They are blocks, with empty lines between: a comment, a declaration.

use crate::comment::{Comment, mentions, words};

const HEADERS: [(&str, &str); 3] = [
    (
        "openssl/async.h",
        include_str!("../../include/openssl/async.h"),
    ),
    ("rsasync.h", include_str!("../../include/rsasync.h")),
    (
        "openssl/asyncerr.h",
        include_str!("../../include/openssl/asyncerr.h"),
    ),
];

#[derive(PartialEq)]
pub enum Kind {
    Function,
    Type,
    Macro,
}

pub struct Declaration {
    pub name: String,
    pub kind: Kind,
    pub header: &'static str,
    pub comment: Comment,
    pub code: String,
}

pub fn declarations() -> Result<Vec<Declaration>, String> {
    let mut found: Vec<Declaration> = Vec::new();
    for (header, text) in HEADERS {
        for block in text.split("\n\n") {
            let documented = block
                .strip_prefix("/**")
                .and_then(|it| it.split_once("*/\n"));
            let code = documented.map_or(block, |(_, code)| code).trim_end();
            let kind = match code.split(' ').next() {
                Some("#define") => Kind::Macro,
                Some("typedef" | "struct") => Kind::Type,
                Some(word) if !word.starts_with(['#', '/']) => Kind::Function,
                _ => continue,
            };
            let comment = match (documented, &kind) {
                (Some((comment, _)), _) => Some(Comment::new(comment)),
                // The guard of OpenSSL 1.1.
                (None, Kind::Macro) => continue,
                // `typedef struct NAME OTHER;` after `struct NAME;`, which has the comment.
                (None, Kind::Type) => {
                    let original = found.iter().find(|it| mentions(code, &it.name));
                    original.map(|it| it.comment.clone())
                }
                (None, Kind::Function) => None,
            };
            let comment = comment.filter(|it| it.description().next().is_some());
            let comment = comment.ok_or(format!("{header}: what is this?\n{code}"))?;
            found.push(Declaration {
                name: name_in(code).to_owned(),
                kind,
                header,
                comment,
                code: code.to_owned(),
            });
        }
    }
    Ok(found)
}

fn name_in(code: &str) -> &str {
    let mut parts = code.split(['(', '{']);
    let first = parts.next().unwrap_or_default();
    let name = match (first.strip_prefix("#define "), parts.next()) {
        (Some(rest), _) => words(rest).next(),
        // A pointer to a function, `(*NAME)`.
        (_, Some(second)) if second.starts_with('*') => words(second).next(),
        _ => words(first).last(),
    };
    name.unwrap_or_default()
}

impl Declaration {
    /// Its lines, without the comments of members, and none wider than a page.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        const COLUMNS: usize = 72;
        let is_code = |line: &&str| !line.trim_start().starts_with(['/', '*']);
        let wrapped = |line: &str| match line.find('(') {
            Some(margin) if line.len() > COLUMNS => {
                line.replace(", ", &format!(",\n{}", " ".repeat(margin + 1)))
            }
            _ => line.to_owned(),
        };
        self.code.lines().filter(is_code).map(wrapped)
    }

    /// The members of a structure, each with its comment.
    pub fn members(&self) -> impl Iterator<Item = (&str, Comment)> {
        self.code.split("/**").skip(1).filter_map(|member| {
            let (comment, code) = member.split_once("*/")?;
            Some((words(code).nth(1)?, Comment::new(comment)))
        })
    }

    /// Whether there is nothing to see of a type but its name.
    pub fn is_opaque(&self) -> bool {
        self.code.starts_with("typedef struct ")
    }
}
