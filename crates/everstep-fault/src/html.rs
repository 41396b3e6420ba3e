//! HTML as text. Whatever is put in is escaped here, and nowhere else: names and commands come from users.

use std::fmt::Display;

/// Text as HTML takes it, in elements and in attributes. What HTML does not allow at all is replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            _ if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A number for a person: in words where it is not finite, with five digits where it has more.
pub(crate) fn number(value: impl Into<f64>) -> String {
    let value = value.into();
    let magnitude = value.abs();
    if value.is_nan() {
        "not a number".into()
    } else if value.is_infinite() {
        if value > 0.0 { "infinity" } else { "minus infinity" }.into()
    } else if magnitude == 0.0 {
        "0".into()
    } else if !(1e-3..1e6).contains(&magnitude) {
        format!("{value:.3e}")
    } else {
        let decimals = (4 - magnitude.log10().floor() as i32).max(0) as usize;
        let text = format!("{value:.decimals$}");
        let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        short.to_owned()
    }
}

/// A count and what is counted, in the plural where that is due.
pub(crate) fn count(count: u64, singular: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { singular } else { plural })
}

/// A list for a person: of no more than `most`, and how many there are beyond.
pub(crate) fn list(items: &[impl Display], most: usize) -> String {
    let mut text = items.iter().take(most).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > most {
        text += &format!(" and {} more", items.len() - most);
    }
    text
}

/// Bytes in the unit that suits them.
pub(crate) fn bytes(bytes: usize) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for larger in units {
        if value >= 1024.0 {
            (value, unit) = (value / 1024.0, larger);
        }
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit} ({bytes} bytes)") }
}

/// The body of a page. Every element that a method opens it also closes.
#[derive(Default)]
pub(crate) struct Html {
    text: String,
}

impl Html {
    pub(crate) fn element(&mut self, tag: &str, class: &str, text: &str) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        self.text += &format!("<{tag}{class}>{}</{tag}>\n", escape(text));
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        self.element("p", "", text);
    }

    /// A section with a heading that links lead to.
    pub(crate) fn section(&mut self, id: &str, heading: &str, fill: impl FnOnce(&mut Self)) {
        self.text += &format!("<section id=\"{}\">\n<h2>{}</h2>\n", escape(id), escape(heading));
        fill(self);
        self.text += "</section>\n";
    }

    /// What belongs together, within a section.
    pub(crate) fn article(&mut self, id: &str, heading: &str, fill: impl FnOnce(&mut Self)) {
        self.text += &format!("<article id=\"{}\">\n<h3>{}</h3>\n", escape(id), escape(heading));
        fill(self);
        self.text += "</article>\n";
    }

    /// Links within the page: where to, and what they say.
    pub(crate) fn links(&mut self, links: &[(&str, &str)]) {
        let link = |(id, text): &(&str, &str)| format!("<a href=\"#{}\">{}</a>", escape(id), escape(text));
        self.text += &format!("<nav>{}</nav>\n", links.iter().map(link).collect::<Vec<_>>().join(" "));
    }

    /// A list, each item after a label.
    pub(crate) fn items(&mut self, items: impl Iterator<Item = (String, String)>) {
        let item = |(label, text): (String, String)| format!("<li><b>{}</b> {}</li>\n", escape(&label), escape(&text));
        self.text += &format!("<ul>\n{}</ul>\n", items.map(item).collect::<String>());
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.text += &format!("<div class=\"wide\"><table>\n{}</tbody></table></div>\n", table.text);
    }

    /// A picture that [`crate::curve`] has drawn.
    pub(crate) fn figure(&mut self, svg: &str, caption: &str) {
        self.text += &format!("<figure>\n{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(caption));
    }

    /// The whole page.
    pub(crate) fn page(self, title: &str, style: &str) -> String {
        let (title, body) = (escape(title), self.text);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{style}</style>\n\
             </head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        )
    }
}

/// A table, row by row.
pub(crate) struct Table {
    text: String,
}

impl Table {
    /// A table whose columns have these heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escape(head))).collect();
        Self { text: format!("<thead><tr>{heads}</tr></thead>\n<tbody>\n") }
    }

    /// A table of names and values, without heads.
    pub(crate) fn of_fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let row = |(name, value): (&str, String)| {
            format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(name), escape(&value))
        };
        Self { text: "<tbody class=\"fields\">\n".to_owned() + &fields.into_iter().map(row).collect::<String>() }
    }

    /// A row, of a class of the style or none.
    pub(crate) fn row(&mut self, class: &str, cells: &[String]) {
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        self.text += &format!("<tr{class}>{cells}</tr>\n");
    }
}
