package schema

// wellKnown is what Protobuf's own files define, as far as payloads are concerned; registries do not list them among a schema's references.
var wellKnown = map[string]string{
	"google/protobuf/timestamp.proto":  known + `message Timestamp { int64 seconds = 1; int32 nanos = 2; }`,
	"google/protobuf/duration.proto":   known + `message Duration { int64 seconds = 1; int32 nanos = 2; }`,
	"google/protobuf/any.proto":        known + `message Any { string type_url = 1; bytes value = 2; }`,
	"google/protobuf/empty.proto":      known + `message Empty {}`,
	"google/protobuf/field_mask.proto": known + `message FieldMask { repeated string paths = 1; }`,
	"google/protobuf/wrappers.proto": known + `message DoubleValue { double value = 1; } message FloatValue { float value = 1; } message Int64Value { int64 value = 1; }
		message UInt64Value { uint64 value = 1; } message Int32Value { int32 value = 1; } message UInt32Value { uint32 value = 1; } message BoolValue { bool value = 1; }
		message StringValue { string value = 1; } message BytesValue { bytes value = 1; }`,
	"google/protobuf/struct.proto": known + `message Struct { map<string, Value> fields = 1; } enum NullValue { NULL_VALUE = 0; } message ListValue { repeated Value values = 1; }
		message Value { oneof kind { NullValue null_value = 1; double number_value = 2; string string_value = 3; bool bool_value = 4; Struct struct_value = 5; ListValue list_value = 6; } }`,
}

const known = `syntax = "proto3"; package google.protobuf; `
