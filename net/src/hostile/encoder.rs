//! An encoder of postcard that lies now and then. With a rate of 0 it writes what postcard writes, which a test checks.

use common::env::Env;
use postcard::Error;
use serde::{Serialize, ser};

/// Elements that a list is repeated to, at most.
const REPEATED_MAX: u64 = 4096;
/// Bytes of a repeated list or a long text, at most: below every limit of a body.
const LONG_BYTES: usize = 256 << 10;

pub(super) struct Encoder<'a> {
    env: &'a Env,
    rate: u64,
    out: Vec<u8>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(env: &'a Env, rate: u64) -> Self {
        Self {
            env,
            rate,
            out: Vec::new(),
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    fn lies(&self) -> bool {
        self.rate > 0 && self.env.random_below(1000) < self.rate
    }

    fn varint(&mut self, mut value: u128) {
        while value >= 0x80 {
            let low = u8::try_from(value & 0x7f).unwrap_or(0);
            self.out.push(low | 0x80);
            value >>= 7;
        }
        self.out.push(u8::try_from(value).unwrap_or(0));
    }

    /// A number of so many bits, or another one at an edge of what they hold.
    fn number(&self, value: u128, bits: u32) -> u128 {
        let max = u128::MAX >> (128 - bits);
        if !self.lies() {
            return value;
        }
        let random = u128::from(self.env.random_u64()) << 64 | u128::from(self.env.random_u64());
        let other = match self.env.random_below(10) {
            0 => 0,
            1 => 1,
            2 => max,
            3 => max - 1,
            4 => max / 2,
            5 => max / 2 + 1,
            6 => value.wrapping_add(1),
            7 => value.wrapping_sub(1),
            8 => 1 << self.env.random_below(u64::from(bits)),
            _ => random,
        };
        other & max
    }

    fn unsigned(&mut self, value: u128, bits: u32) {
        let value = self.number(value, bits);
        self.varint(value);
    }

    /// Postcard's zigzag.
    fn signed(&mut self, value: i128, bits: u32) {
        let zigzag = ((value << 1) ^ (value >> 127)).cast_unsigned();
        self.unsigned(zigzag, bits);
    }

    fn length(&mut self, length: usize) {
        self.varint(length as u128);
    }

    fn blob(&mut self, bytes: &[u8]) {
        if !self.lies() {
            self.length(bytes.len());
            self.out.extend(bytes);
            return;
        }
        let other = match self.env.random_below(5) {
            0 => Vec::new(),
            1 => vec![b'x'; LONG_BYTES],
            2 => b"\0/../\n".to_vec(),
            3 => vec![0xff, 0xfe, 0x80],
            // Announces what does not come.
            _ => return self.varint(u128::from(self.env.random_u64())),
        };
        self.length(other.len());
        self.out.extend(other);
    }

    fn variant(&mut self, index: u32) {
        let index = if self.lies() && self.env.random_below(4) == 0 {
            u32::try_from(self.env.random_below(8)).unwrap_or(0)
        } else {
            index
        };
        self.varint(u128::from(index));
    }

    fn list(&mut self) -> List<'_, 'a> {
        let start = self.out.len();
        List {
            start,
            count: 0,
            encoder: self,
        }
    }
}

/// A list or a map: its count is written in front when it is known.
pub(super) struct List<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    start: usize,
    count: u64,
}

impl List<'_, '_> {
    fn put<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Error> {
        element.serialize(&mut *self.encoder)
    }

    fn finish(self) {
        let encoder = self.encoder;
        let elements = encoder.out.split_off(self.start);
        if !encoder.lies() {
            encoder.varint(u128::from(self.count));
            encoder.out.extend(elements);
            return;
        }
        match encoder.env.random_below(3) {
            0 => encoder.varint(0),
            1 => {
                encoder.varint(u128::from(encoder.env.random_u64()));
                encoder.out.extend(elements);
            }
            _ => {
                let fit = (LONG_BYTES / elements.len().max(1)) as u64;
                let most = REPEATED_MAX / self.count.max(1);
                let times = encoder.env.random_below(fit.min(most).max(1)) + 1;
                encoder.varint(u128::from(self.count * times));
                for _ in 0..times {
                    encoder.out.extend(&elements);
                }
            }
        }
    }
}

macro_rules! numbers {
    ($($name:ident($type:ty) = $method:ident, $bits:literal;)*) => {$(
        fn $name(self, value: $type) -> Result<(), Error> {
            self.$method(value.into(), $bits);
            Ok(())
        }
    )*};
}

impl<'e, 'a> ser::Serializer for &'e mut Encoder<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = List<'e, 'a>;
    type SerializeTuple = Fields<'e, 'a>;
    type SerializeTupleStruct = Fields<'e, 'a>;
    type SerializeTupleVariant = Fields<'e, 'a>;
    type SerializeMap = List<'e, 'a>;
    type SerializeStruct = Fields<'e, 'a>;
    type SerializeStructVariant = Fields<'e, 'a>;

    numbers! {
        serialize_u16(u16) = unsigned, 16;
        serialize_u32(u32) = unsigned, 32;
        serialize_u64(u64) = unsigned, 64;
        serialize_u128(u128) = unsigned, 128;
        serialize_i16(i16) = signed, 16;
        serialize_i32(i32) = signed, 32;
        serialize_i64(i64) = signed, 64;
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        let value = value ^ self.lies();
        self.out.push(value.into());
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        let value = self.number(value.into(), 8);
        self.out.push(u8::try_from(value).unwrap_or(0));
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.serialize_u8(value.cast_unsigned())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.out.extend(value.to_le_bytes());
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.out.extend(value.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.blob(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.blob(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.out.push(0);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        if self.lies() {
            return self.serialize_none();
        }
        self.out.push(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
    ) -> Result<(), Error> {
        self.variant(index);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(index);
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'e, 'a>, Error> {
        Ok(self.list())
    }

    fn serialize_tuple(self, _: usize) -> Result<Fields<'e, 'a>, Error> {
        Ok(Fields(self))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Fields<'e, 'a>, Error> {
        Ok(Fields(self))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'e, 'a>, Error> {
        self.variant(index);
        Ok(Fields(self))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<List<'e, 'a>, Error> {
        Ok(self.list())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'e, 'a>, Error> {
        Ok(Fields(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'e, 'a>, Error> {
        self.variant(index);
        Ok(Fields(self))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for List<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.count += 1;
        self.put(value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

impl ser::SerializeMap for List<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.count += 1;
        self.put(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.put(value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

/// Fields one after the other, without a count.
pub(super) struct Fields<'e, 'a>(&'e mut Encoder<'a>);

macro_rules! fields {
    ($($kind:ident, $put:ident($($name:ident: $type:ty)?);)*) => {$(
        impl ser::$kind for Fields<'_, '_> {
            type Ok = ();
            type Error = Error;

            fn $put<T: Serialize + ?Sized>(&mut self, $($name: $type,)? value: &T) -> Result<(), Error> {
                value.serialize(&mut *self.0)
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        }
    )*};
}

fields! {
    SerializeTuple, serialize_element();
    SerializeTupleStruct, serialize_field();
    SerializeTupleVariant, serialize_field();
    SerializeStruct, serialize_field(_name: &'static str);
    SerializeStructVariant, serialize_field(_name: &'static str);
}
