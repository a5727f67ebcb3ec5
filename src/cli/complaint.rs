//! Problems that end a command, as `check` and `probe` print them: for a person, and in one shape of JSON wherever they
//! came from.

use serde::Serialize;

use crate::config::{Problem, Problems};

/// Something that has to be mended first. Its JSON is part of the face: every field is always there.
#[derive(Debug, Serialize)]
pub(super) struct Complaint {
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    /// The key of the file that it is about, as far as that is known.
    key: Option<String>,
    message: String,
    mend: Option<String>,
    #[serde(skip)]
    text: String,
}

impl From<&Problem> for Complaint {
    fn from(problem: &Problem) -> Complaint {
        let Problem { file, line, column, key, message, mend, .. } = problem;
        Complaint {
            file: Some(file.clone()),
            line: *line,
            column: *column,
            key: key.clone(),
            message: message.clone(),
            mend: Some(mend.clone()),
            text: problem.to_string(),
        }
    }
}

/// What did not load: `identity.corp: key /etc/x.key: there is no such file`.
impl From<String> for Complaint {
    fn from(text: String) -> Complaint {
        let about = ["identity.", "upstream.", "listener.", "dns"];
        let (key, message) = match text.split_once(": ") {
            Some((key, rest)) if about.iter().any(|section| key.starts_with(section)) => {
                (Some(key.to_owned()), rest.to_owned())
            }
            _ => (None, text.clone()),
        };
        Complaint {
            file: None,
            line: None,
            column: None,
            key,
            message,
            mend: None,
            text: format!("nuncio: {text}"),
        }
    }
}

/// All of a file's.
pub(super) fn of_file(problems: &Problems) -> Vec<Complaint> {
    problems.iter().map(Complaint::from).collect()
}

/// All that did not load.
pub(super) fn of_load(problems: Vec<String>) -> Vec<Complaint> {
    problems.into_iter().map(Complaint::from).collect()
}

/// To standard error; an empty line after what has several.
pub(super) fn print(complaints: &[Complaint]) {
    for Complaint { text, .. } in complaints {
        let gap = if text.contains('\n') && complaints.len() > 1 { "\n" } else { "" };
        eprintln!("{text}{gap}");
    }
}
