// Package registry asks a schema registry for what routes name, over the REST interface that Confluent's registry, Karapace and Apicurio (under /apis/ccompat/v7) share:
//
//	GET /subjects/{subject}/versions/latest   or the version that a route names; references the same way
//	GET /subjects/{subject}/versions          for routes whose devices frame their payloads
//
// # Invariants
//
//   - R1 Nobody who publishes waits here. One goroutine asks, one request at a time; what it learns is put into a schema.Subject, which answers from memory.
//   - R2 A subject is asked for again every Refresh, after a failure sooner (1 s, doubling up to 30 s), and for a payload that names an unknown id at once, but not within
//     5 s of the last time. While the registry does not answer, one request a round finds that out for all subjects.
//   - R3 A schema that is known is never given up: not for an outage, not for a newer version that cannot be used, not for a subject that was deleted. The log and the metrics tell.
//   - R4 An answer has at most 4 MiB and 10 s. Credentials go to the registry only: redirects are not followed.
//
// What this package never does: register a schema.
//
// # Metrics (Stats)
//
//	weir_mqtt_schema_checked_total         checks of payloads; one that waits for the log is checked again each time it is tried
//	weir_mqtt_schema_refused_total         those that found a payload that does not fit
//	weir_mqtt_schema_subjects              subjects that routes name
//	weir_mqtt_schema_unknown_subjects      those of which no usable schema is known: their payloads wait, or go where on_error says
//	weir_mqtt_schema_requests_total        requests to the registry
//	weir_mqtt_schema_errors_total          times a subject's schema could not be had, for whatever reason
//	weir_mqtt_schema_age_seconds           time since the registry confirmed the schema of the subject that has gone without for longest
package registry
