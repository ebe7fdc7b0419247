package main

import "github.com/policy-engine/policy-engine/config"

func (p *program) schema(args []string) error {
	return p.dispatch("policyctl schema", []command{
		{"kernel", "print the JSON Schema of kernel-config.yaml", func(p *program, args []string) error {
			return p.printSchema("kernel", config.KernelSchema, args)
		}},
		{"worker", "print the JSON Schema of worker-config-N.yaml", func(p *program, args []string) error {
			return p.printSchema("worker", config.WorkerSchema, args)
		}},
	}, args)
}

func (p *program) printSchema(name string, schema []byte, args []string) error {
	if err := parse(p.flags("policyctl schema "+name, "Prints the JSON Schema, for editors that complete and check the file."), args); err != nil {
		return err
	}
	_, err := p.stdout.Write(schema)
	return err
}
