package main

type benchKafkaCmd struct{}
type benchLogCmd struct{}
