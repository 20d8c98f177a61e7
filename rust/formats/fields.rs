//! Fields of other programs' files, with the values that occur in practice besides the documented ones.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::action::json::Json;

/// A text, or what other programs write instead: null, a number, or a list of parts whose texts are joined.
#[derive(Clone, Debug, Default)]
pub struct Text(pub Option<String>);

impl Text {
    pub fn or_empty(self) -> String {
        self.0.unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { is_part: false })
    }
}

/// An element of a list that represents a text.
struct Part(Text);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { is_part: true }).map(Self)
    }
}

struct TextVisitor {
    is_part: bool,
}

impl<'de> de::Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text(Some(text)))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
        Ok(Text(Some(Json::from(Value::from(value)).literal())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
        Ok(Text(Some(number.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
        Ok(Text(Some(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
        Ok(Text(Some(Json::from(Value::from(number)).literal())))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        if !self.is_part {
            let value = Value::deserialize(de::value::MapAccessDeserializer::new(map))?;
            return Ok(Text(Some(Json::from(value).literal())));
        }

        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Type,
            Text,
            Other(String),
        }

        let (mut kind, mut text, mut others) = (Text(None), Text(None), Map::new());
        while let Some(field) = map.next_key()? {
            match field {
                Field::Type => kind = map.next_value()?,
                Field::Text => text = map.next_value()?,
                Field::Other(name) => _ = others.insert(name, map.next_value()?),
            }
        }
        match (kind.0.as_deref(), &text.0) {
            (None | Some("text" | "input_text" | "output_text"), Some(_)) => Ok(text), // OpenAI's two APIs
            (None, None) => Ok(Text(Some(Json::from(Value::Object(others)).literal()))),
            (Some(kind), _) => Err(de::Error::custom(format!("a part that is {kind}, not text"))),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        if self.is_part {
            let value = Value::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
            return Ok(Text(Some(Json::from(value).literal())));
        }
        let mut whole = seq.next_element::<Part>()?.map_or(String::new(), |Part(text)| text.or_empty());
        while let Some(Part(text)) = seq.next_element()? {
            whole.push('\n');
            whole.push_str(&text.or_empty());
        }
        Ok(Text(Some(whole)))
    }
}

/// Deserializes a score: a number or a boolean.
pub fn score<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(right) => Ok(Some(f64::from(u8::from(right)))),
        Value::Number(number) => Ok(number.as_f64()),
        other => Err(de::Error::custom(format!("the score is {other}, not a number"))),
    }
}

/// Deserializes a value, a string that contains it as JSON, or null. Tables store nested columns as such strings.
pub fn nested<'de, D: Deserializer<'de>, T: de::DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Visitor<T>(PhantomData<T>);

    impl<'de, T: de::DeserializeOwned> de::Visitor<'de> for Visitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object, a list, or a string that holds one as JSON")
        }

        fn visit_str<E: de::Error>(self, json: &str) -> Result<Self::Value, E> {
            serde_json::from_str(json).map_err(E::custom)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            T::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Some)
        }
    }

    deserializer.deserialize_any(Visitor(PhantomData))
}
