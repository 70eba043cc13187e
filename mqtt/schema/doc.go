// Package schema holds payloads to schemas: JSON Schema, Avro and Protobuf. It is the pure half of what routes with `schema:` do: texts in, verdicts out; no
// clock, goroutine or I/O. The half that asks a registry is mqtt/schema/registry.
//
//	Compile(Source) → *Version        once per schema, in the background
//	Subject.For(payload) → *Version   which version a payload is held to, from memory; never waits
//	Version.Check, Version.JSON       the verdict; the payload as JSON
//
// # Invariants
//
//   - S1 No schema and no payload brings the node down: sizes, counts, depths and the work of a check are bounded before a library sees them, and what panics all the
//     same is an error of that schema or payload.
//   - S2 Nothing is loaded from anywhere: a reference is resolved by what the registry lists among the schema's references, or not at all. References that lead
//     back to themselves are refused by name.
//   - S3 A payload is judged or it waits; it is never let through for want of a schema. Once a version is known it goes on being used while the registry is away.
//   - S4 What is stored is the payload as it came, unless the route decodes it; frame: confluent puts five bytes (Protobuf: six or more) before it and changes none.
//
// # Limits
//
// A schema has at most 1 MiB of text, 4 MiB with its references, of which there are at most 64, at most 8 deep. A payload has at most 256 KiB, which bounds what a check
// takes of memory: libraries build values of several hundred times a payload's size.
//
// A JSON Schema may be costly where others are not, since alternatives are tried one after the other on the same value, and references multiply them. Its cost
// is how often its parts can be visited for one value, with the length of its patterns' programs: at most 65,536, and at most 2^23 times a payload's size in values (a
// string counts once more for each 16 bytes). So it may not refer to itself; $dynamicRef and $recursiveRef, which serve that, are refused too. It has at most
// 10,000 values. Patterns are Go's (RE2: linear in the text), at most 512 bytes long, and with their repetitions of 16,384 steps.
// Records of Avro and messages of Protobuf may be recursive: a payload of theirs is walked once. A record of Avro has at most 8 values for each byte that it takes at least,
// and for one more, since nulls and records take none; a message of Protobuf at most 1,000 required fields and 1,000 ranges for extensions, which each field is looked up in.
//
// A payload of Protobuf with fields that its message does not have is refused, as are values of another wire type than the field's, values that an enumeration of proto2 does
// not have, and strings that are not UTF-8. Numbers that a message of proto2 leaves to extensions may be anything.
//
// Formats are asserted where the draft says so (up to draft-07, which is taken where $schema is missing). Numbers in JSON have at most 64 characters and
// exponents within ±400.
//
// Third-party: santhosh-tekuri/jsonschema/v6 (Apache-2.0) and golang.org/x/text (BSD), in which it prints its messages; twmb/avro (MIT), since hamba/avro is archived;
// emicklei/proto (MIT), which parses .proto files and nothing more. What links them and walks a payload is ours: bufbuild/protocompile with Protobuf's own runtime
// takes 3.5 MB of a board's flash where this takes 0.2, and builds what it checks. Tests hold the two against each other.
package schema
