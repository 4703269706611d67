//! A man page: its parts.

use crate::roff::{COLUMNS, roman, without_requests, wrapped};

/// The section of the functions' pages.
pub const FUNCTIONS: &str = "3rsasync";

/// The texts that its methods take are roff's, as roff.rs makes them.
pub struct Page(String);

impl Page {
    pub fn new(name: &str, section: &str, summary: &str, date: &str) -> Self {
        // The last line has it at the right of the date, which is in the middle.
        let fits = name.len() + section.len() + "()".len() < (COLUMNS - date.len()) / 2 - 1;
        let title = if fits { name } else { "ASYNC_WAIT_CTX" }.to_uppercase();
        let source = concat!("rsasync ", env!("CARGO_PKG_VERSION"));
        let mut page = Self(String::new());
        page.request(&format!("TH {title} {section} \"{date}\" \"{source}\""));
        // Names are long, and must be neither hyphenated nor drawn apart.
        page.request("nh");
        page.request("ad l");
        // A sentence may end anywhere in a line, so the space after it should always be the same.
        page.request("ss 12 0");
        page.section("NAME");
        page.paragraph(&roman(&format!("{name} - {summary}")));
        page
    }

    fn request(&mut self, request: &str) {
        self.0 += &format!(".{request}\n");
    }

    pub fn section(&mut self, heading: &str) {
        self.request(&format!("SH {heading}"));
    }

    pub fn subsection(&mut self, heading: &str) {
        self.request(&format!("SS {heading}"));
    }

    fn text(&mut self, text: &str) {
        self.0 += &wrapped(text);
    }

    pub fn paragraph(&mut self, text: &str) {
        self.begin_paragraph();
        self.text(text);
    }

    /// A heading alone begins the first paragraph below it.
    fn begin_paragraph(&mut self) {
        let last = self.0.lines().next_back().unwrap_or_default();
        if !last.starts_with(".S") {
            self.request("PP");
        }
    }

    /// An entry of a list, each text on a line of its own.
    pub fn entry(&mut self, tag: &str, texts: &[String]) {
        // What indents a text below its tag takes one line for the tag.
        let fits = tag.len() <= COLUMNS;
        self.request(if fits { "TP" } else { "PP" });
        self.text(tag);
        if !fits {
            self.request("RS");
        }
        for (n, text) in texts.iter().enumerate() {
            if n > 0 {
                self.request("br");
            }
            self.text(text);
        }
        if !fits {
            self.request("RE");
        }
    }

    pub fn item(&mut self, text: &str) {
        self.request(r"IP \(bu 2");
        self.text(text);
    }

    /// Lines that stay as they are.
    pub fn lines(&mut self, lines: &str) {
        self.begin_paragraph();
        self.request("nf");
        self.0 += &without_requests(lines);
        self.request("fi");
    }

    /// Lines for a shell or a file, as they are typed.
    pub fn example(&mut self, lines: &str) {
        self.request("RS 4");
        self.lines(lines);
        self.request("RE");
    }

    /// Ends the page by the names of others, with their sections before them.
    pub fn see_also<'a>(mut self, pages: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        self.section("SEE ALSO");
        let pages = pages.into_iter();
        let pages = pages.map(|(section, name)| format!(".BR {} ({section})", roman(name)));
        self.0 + &pages.collect::<Vec<_>>().join(",\n") + "\n"
    }
}
