//! `conf/nuncio.toml`: every key with its text and its default, written from the keys' own declarations.

use super::file::File;
use super::section::{Key, Nested, Section, Show};

/// The text of `conf/nuncio.toml`. It loads, and means the defaults.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every key of nuncio, with its default. Keys without a default are commented out, with an example.\n\
         # Written by the test that holds it against the program; smaller files for one job each lie beside it.\n\
         # Durations: \"250ms\", \"3s\", \"2m\". Sizes: \"64KiB\". ${NAME} stands for a variable of the environment, $$ for a dollar.\n\
         # Paths are relative to the file that they stand in.\n",
    );
    keys(&mut text, "", <File as Section>::KEYS);
    text
}

/// Plain keys first, since in TOML what follows a header belongs to it.
fn keys(text: &mut String, section: &str, keys: &[Key]) {
    for key in keys.iter().filter(|key| key.show != Show::section) {
        text.push('\n');
        about(text, "#", key);
        let off = if key.show == Show::example { "# " } else { "" };
        text.push_str(&format!("{off}{} = {}\n", key.name, key.text));
        let table = match key.nested {
            Nested::Entry => "An entry",
            Nested::Instead => "It",
            Nested::None | Nested::Section | Nested::Named => "",
        };
        if !table.is_empty() {
            text.push_str(&format!("# {table} may be a table with these keys:\n"));
            for below in key.keys {
                about(text, "#   #", below);
                text.push_str(&format!("#   {} = {}\n", below.name, below.text));
            }
        }
    }
    for key in keys.iter().filter(|key| key.show == Show::section) {
        let name = match key.nested {
            Nested::Named => format!("{section}{}.example", key.name),
            Nested::None | Nested::Section | Nested::Entry | Nested::Instead => {
                format!("{section}{}", key.name)
            }
        };
        text.push_str("\n\n");
        about(text, "#", key);
        text.push_str(&format!("[{name}]\n"));
        self::keys(text, &format!("{name}."), key.keys);
    }
}

fn about(text: &mut String, comment: &str, key: &Key) {
    for line in key.about {
        text.push_str(&format!("{comment}{line}\n"));
    }
}
