//! The configuration's JSON (RFC 8259): one object of texts, numbers and flags. What is in a list or in another object is
//! no setting here.

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(f64),
    Flag(bool),
    Null,
}

/// The members in order. The input ends where the object does. An error is in words.
pub fn parse(text: &str) -> Result<Vec<(String, Value)>, String> {
    let mut reader = Reader { text, position: 0 };
    let mut members = Vec::new();
    reader.expect('{')?;
    if reader.next_is('}') {
        return reader.end(members);
    }
    loop {
        let name = reader.string()?;
        reader.expect(':')?;
        let value = reader.value(&name)?;
        members.push((name, value));
        if !reader.next_is(',') {
            reader.expect('}')?;
            return reader.end(members);
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Reader<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.position..].trim_start_matches(&[' ', '\t', '\n', '\r'][..]);
        self.position = self.text.len() - rest.len();
        rest
    }

    fn next_is(&mut self, letter: char) -> bool {
        let is_there = self.rest().starts_with(letter);
        self.position += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, letter: char) -> Result<(), String> {
        if self.next_is(letter) {
            Ok(())
        } else {
            Err(format!("no JSON: {:?} is missing at octet {}", letter, self.position))
        }
    }

    fn end(mut self, members: Vec<(String, Value)>) -> Result<Vec<(String, Value)>, String> {
        match self.rest() {
            "" => Ok(members),
            _ => Err(format!("no JSON: something follows at octet {}", self.position)),
        }
    }

    fn value(&mut self, name: &str) -> Result<Value, String> {
        let rest = self.rest();
        if rest.starts_with('"') {
            return self.string().map(Value::Text);
        }
        let length = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !"+-.".contains(letter));
        let word = &rest[..length.unwrap_or(rest.len())];
        self.position += word.len();
        match word {
            "true" => Ok(Value::Flag(true)),
            "false" => Ok(Value::Flag(false)),
            "null" => Ok(Value::Null),
            _ if word.starts_with(|letter: char| letter == '-' || letter.is_ascii_digit()) => {
                word.parse().map(Value::Number).map_err(|_| format!("{}: {} is no number", name, word))
            }
            _ => Err(format!("{}: expected a text, a number or a flag", name)),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect('"')?;
        let mut found = String::new();
        loop {
            let rest = &self.text[self.position..];
            let length = rest.find(&['"', '\\'][..]).ok_or("no JSON: a text has no end")?;
            found.push_str(&rest[..length]);
            self.position += length + 1;
            if rest[length..].starts_with('"') {
                return Ok(found);
            }
            found.push(self.escaped()?);
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        let letter = self.text[self.position..].chars().next().ok_or("no JSON: a text has no end")?;
        self.position += letter.len_utf8();
        Ok(match letter {
            '"' | '\\' | '/' => letter,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.unit()?;
                let mut units = vec![first];
                if (0xd800..0xdc00).contains(&first) && self.text[self.position..].starts_with("\\u") {
                    self.position += 2;
                    units.push(self.unit()?);
                }
                let text = String::from_utf16(&units).map_err(|_| "no JSON: half of a letter")?;
                text.chars().next().ok_or("no JSON: half of a letter")?
            }
            _ => return Err(format!("no JSON: {:?} is no escape", letter)),
        })
    }

    fn unit(&mut self) -> Result<u16, String> {
        let digits = self.text.get(self.position..self.position + 4).ok_or("no JSON: a text has no end")?;
        self.position += 4;
        u16::from_str_radix(digits, 16).map_err(|_| format!("no JSON: {:?} is no number of a letter", digits))
    }
}
