//! What types are made of, as their own decoders say: a deserializer that answers every
//! question with zeros and notes what was asked. So a field that is added to a type is in
//! the tables of the document, or the test fails.

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, SeqAccess,
    VariantAccess, Visitor, value::Error,
};
use std::collections::BTreeMap;

/// What a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A number, text, truth: by the name in the document.
    Plain(&'static str),
    /// One or none.
    Optional(Box<Shape>),
    /// As many as it says.
    List(Box<Shape>),
    /// So many.
    Array(usize, Box<Shape>),
    /// Several, one after the other.
    Several(Vec<Shape>),
    /// A type of its own.
    Named(&'static str),
}

/// What a variant holds, or a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Nothing.
    Nothing,
    /// Values without names.
    Values(Vec<Shape>),
    /// Fields.
    Fields(Vec<(&'static str, Shape)>),
}

/// A type that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A structure.
    Structure(Holds),
    /// An enumeration: variants, and what those that were looked at hold.
    Enumeration(Vec<(&'static str, Option<Holds>)>),
}

/// All types that were met, and in which order.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) kinds: BTreeMap<&'static str, Kind>,
    pub(crate) order: Vec<&'static str>,
}

impl Registry {
    /// Looks at a type, until all variants of all that is in it are known.
    pub(crate) fn trace<T: for<'de> Deserialize<'de>>(&mut self) {
        loop {
            let mut shape = None;
            T::deserialize(Tracer { registry: self, shape: &mut shape }).expect("a type that can be zeros");
            if shape.is_some_and(|shape| self.is_known(&shape)) {
                return;
            }
        }
    }

    /// Whether all variants of all that is in it were looked at. No type holds itself.
    fn is_known(&self, shape: &Shape) -> bool {
        match shape {
            Shape::Plain(_) => true,
            Shape::Optional(inner) | Shape::List(inner) | Shape::Array(_, inner) => self.is_known(inner),
            Shape::Several(items) => items.iter().all(|item| self.is_known(item)),
            Shape::Named(name) => match self.kinds.get(name) {
                Some(Kind::Structure(holds)) => self.is_held_known(holds),
                Some(Kind::Enumeration(variants)) => variants
                    .iter()
                    .all(|(_, holds)| holds.as_ref().is_some_and(|holds| self.is_held_known(holds))),
                None => false,
            },
        }
    }

    fn is_held_known(&self, holds: &Holds) -> bool {
        match holds {
            Holds::Nothing => true,
            Holds::Values(values) => values.iter().all(|value| self.is_known(value)),
            Holds::Fields(fields) => fields.iter().all(|(_, field)| self.is_known(field)),
        }
    }

    fn note(&mut self, name: &'static str, kind: Kind) {
        match self.kinds.get(name) {
            Some(known) => assert_eq!(*known, kind, "two types are called {name}"),
            None => {
                self.kinds.insert(name, kind);
            }
        }
    }

    fn begin(&mut self, name: &'static str) {
        if !self.order.contains(&name) {
            self.order.push(name);
        }
    }
}

/// Answers for one value.
struct Tracer<'a> {
    registry: &'a mut Registry,
    shape: &'a mut Option<Shape>,
}

macro_rules! plain {
    ($($method:ident $visit:ident $value:expr, $name:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.shape = Some(Shape::Plain($name));
            visitor.$visit($value)
        })*
    };
}

macro_rules! unused {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom(concat!("the wire has no ", stringify!($method))))
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    plain! {
        deserialize_bool visit_bool false, "bool";
        deserialize_u8 visit_u8 0, "u8";
        deserialize_u16 visit_u16 0, "u16";
        deserialize_u32 visit_u32 0, "u32";
        deserialize_u64 visit_u64 0, "u64";
        deserialize_str visit_str "", "text";
        deserialize_string visit_str "", "text";
    }

    unused! {
        deserialize_any deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_f32
        deserialize_f64 deserialize_char deserialize_map deserialize_unit deserialize_identifier
        deserialize_ignored_any
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.shape = Some(Shape::List(Box::new(Shape::Plain("u8"))));
        visitor.visit_bytes(&[])
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut inner = None;
        let value = visitor.visit_some(Tracer { registry: self.registry, shape: &mut inner })?;
        *self.shape = inner.map(|inner| Shape::Optional(Box::new(inner)));
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut items = Items { registry: self.registry, left: 1, shapes: Vec::new() };
        let value = visitor.visit_seq(&mut items)?;
        *self.shape = items.shapes.pop().map(|item| Shape::List(Box::new(item)));
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        let mut items = Items { registry: self.registry, left: length, shapes: Vec::new() };
        let value = visitor.visit_seq(&mut items)?;
        let shapes = items.shapes;
        let alike = shapes.first().filter(|first| shapes.iter().all(|shape| shape == *first));
        // Two that are alike by chance are an array, too: the bytes are the same.
        *self.shape = Some(match alike {
            Some(first) => Shape::Array(length, Box::new(first.clone())),
            None => Shape::Several(shapes),
        });
        Ok(value)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.registry.begin(name);
        let mut items = Items { registry: self.registry, left: fields.len(), shapes: Vec::new() };
        let value = visitor.visit_seq(&mut items)?;
        let holds = Holds::Fields(fields.iter().copied().zip(items.shapes).collect());
        self.registry.note(name, Kind::Structure(holds));
        *self.shape = Some(Shape::Named(name));
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.registry.begin(name);
        let unknown = || Kind::Enumeration(variants.iter().map(|variant| (*variant, None)).collect());
        let kind = self.registry.kinds.entry(name).or_insert_with(unknown);
        let Kind::Enumeration(known) = kind else { panic!("two types are called {name}") };
        assert_eq!(known.len(), variants.len(), "two types are called {name}");
        let known = known.clone();
        let is_known =
            |holds: &Option<Holds>| holds.as_ref().is_some_and(|holds| self.registry.is_held_known(holds));
        let index = known.iter().position(|(_, holds)| !is_known(holds)).unwrap_or(0);
        let mut holds = Holds::Nothing;
        let value = visitor.visit_enum(Variant { registry: self.registry, index, holds: &mut holds })?;
        if let Some(Kind::Enumeration(known)) = self.registry.kinds.get_mut(name) {
            known[index].1 = Some(holds);
        }
        *self.shape = Some(Shape::Named(name));
        Ok(value)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

struct Items<'a> {
    registry: &'a mut Registry,
    left: usize,
    shapes: Vec<Shape>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut shape = None;
        let value = seed.deserialize(Tracer { registry: self.registry, shape: &mut shape })?;
        self.shapes.extend(shape);
        Ok(Some(value))
    }
}

struct Variant<'a> {
    registry: &'a mut Registry,
    index: usize,
    holds: &'a mut Holds,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let index = u32::try_from(self.index).map_err(Error::custom)?;
        let value = seed.deserialize(IntoDeserializer::<Error>::into_deserializer(index))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let mut shape = None;
        let value = seed.deserialize(Tracer { registry: self.registry, shape: &mut shape })?;
        *self.holds = Holds::Values(shape.into_iter().collect());
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        let mut items = Items { registry: self.registry, left: length, shapes: Vec::new() };
        let value = visitor.visit_seq(&mut items)?;
        *self.holds = Holds::Values(items.shapes);
        Ok(value)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut items = Items { registry: self.registry, left: fields.len(), shapes: Vec::new() };
        let value = visitor.visit_seq(&mut items)?;
        *self.holds = Holds::Fields(fields.iter().copied().zip(items.shapes).collect());
        Ok(value)
    }
}
