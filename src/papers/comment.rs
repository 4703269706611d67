//! A comment of the headers: its paragraphs, told apart by their first words.

#[derive(Clone)]
pub struct Comment(Vec<String>);

pub const HISTORY: &str = "Since OpenSSL";
pub const CAVEATS: &str = "What the caller must see to: ";
pub const PARAMETER: &str = "@param ";
pub const RETURNS: &str = "@return ";

impl Comment {
    /// The text between `/**` and `*/`. These parts begin a paragraph wherever they stand.
    pub fn new(text: &str) -> Self {
        let mut paragraphs = String::new();
        for line in text.lines() {
            let line = line.trim();
            let line = line.strip_prefix('*').unwrap_or(line).trim();
            paragraphs.push_str(if line.is_empty() { "\n" } else { line });
            paragraphs.push(' ');
        }
        for part in [HISTORY, PARAMETER, RETURNS] {
            paragraphs = paragraphs.replace(&format!(" {part}"), &format!("\n{part}"));
        }
        let paragraphs = paragraphs.lines().map(|it| it.trim().to_owned());
        Self(paragraphs.filter(|it| !it.is_empty()).collect())
    }

    /// The paragraphs of one of these parts, without the words that begin it.
    pub fn part(&self, words: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |it| it.strip_prefix(words))
    }

    /// Those that belong to no part.
    pub fn description(&self) -> impl Iterator<Item = &str> {
        let paragraphs = self.0.iter().map(String::as_str);
        let parts = [HISTORY, CAVEATS, PARAMETER, RETURNS];
        paragraphs.filter(move |it| !parts.iter().any(|part| it.starts_with(part)))
    }

    /// Each parameter, and what it means.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.part(PARAMETER).filter_map(|it| it.split_once(' '))
    }

    /// The first sentence, up to what explains it, to follow a name and a dash.
    pub fn summary(&self) -> String {
        let sentence = self.description().next().unwrap_or_default();
        let ends = [". ", ": ", "; "].map(|end| sentence.find(end));
        let end = ends.into_iter().flatten().min();
        let sentence = &sentence[..end.unwrap_or(sentence.len())];
        lower_first(sentence.trim_end_matches('.'))
    }

    pub fn text(&self) -> String {
        self.0.join(" ")
    }
}

pub fn lower_first(sentence: &str) -> String {
    let parts = sentence.split_at_checked(1);
    parts.map_or(String::new(), |(first, rest)| first.to_lowercase() + rest)
}

pub fn mentions(text: &str, word: &str) -> bool {
    words(text).any(|it| it == word)
}

/// The identifiers in a text.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}
