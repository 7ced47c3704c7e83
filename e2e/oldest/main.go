// Command oldest judges manifests as the API server of the oldest Kubernetes does that Motley states.
//
// It reads CustomResourceDefinitions and ValidatingAdmissionPolicies as a JSON array from standard input
// and prints a line for each thing that this release refuses: a field that it lacks, a schema that is not
// structural, an expression that does not compile in its CEL, or one that may cost more than it allows.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/google/cel-go/cel"
	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	plugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

func main() {
	var documents []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&documents); err != nil {
		fmt.Fprintln(os.Stderr, "standard input:", err)
		os.Exit(2)
	}
	refused := 0
	for _, document := range documents {
		for _, line := range judge(document) {
			fmt.Println(line)
			refused++
		}
	}
	if refused > 0 {
		os.Exit(1)
	}
}

func judge(document json.RawMessage) []string {
	var what metav1.PartialObjectMetadata
	if err := json.Unmarshal(document, &what); err != nil {
		return []string{err.Error()}
	}
	var found []string
	switch what.Kind {
	case "CustomResourceDefinition":
		found = judgeDefinition(document)
	case "ValidatingAdmissionPolicy":
		found = judgePolicy(document)
	default:
		found = []string{"nobody here judges this kind"}
	}
	for i, line := range found {
		found[i] = fmt.Sprintf("%s %s: %s", what.Kind, what.Name, line)
	}
	return found
}

// read is strict: the API server would drop a field that it does not know without a word.
func read(document json.RawMessage, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

func judgeDefinition(document json.RawMessage) []string {
	var given extensions.CustomResourceDefinition
	if err := read(document, &given); err != nil {
		return []string{err.Error()}
	}
	extensions.SetDefaults_CustomResourceDefinition(&given)
	extensions.SetDefaults_CustomResourceDefinitionSpec(&given.Spec)
	var stored apiextensions.CustomResourceDefinition
	err := extensions.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&given, &stored, nil)
	if err != nil {
		return []string{err.Error()}
	}
	for _, version := range stored.Spec.Versions {
		if version.Storage {
			stored.Status.StoredVersions = []string{version.Name}
		}
	}
	var found []string
	for _, each := range validation.ValidateCustomResourceDefinition(context.Background(), &stored) {
		found = append(found, each.Error())
	}
	return found
}

// expression is one of a policy, by the field it is written in.
type expression struct {
	name, text string
	types      []*cel.Type
}

func (e expression) GetExpression() string    { return e.text }
func (e expression) GetName() string          { return e.name }
func (e expression) ReturnTypes() []*cel.Type { return e.types }

func judgePolicy(document json.RawMessage) []string {
	var policy admission.ValidatingAdmissionPolicy
	if err := read(document, &policy); err != nil {
		return []string{err.Error()}
	}
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion(), false)
	compiler, err := plugin.NewCompositedCompiler(base)
	if err != nil {
		return []string{err.Error()}
	}
	given := plugin.OptionalVariableDeclarations{HasAuthorizer: true, HasParams: policy.Spec.ParamKind != nil}
	var found []string
	say := func(where string, result plugin.CompilationResult) {
		if result.Error != nil {
			found = append(found, fmt.Sprintf("%s: %s", where, result.Error.Detail))
		}
	}
	for _, each := range policy.Spec.Variables {
		what := expression{each.Name, each.Expression, []*cel.Type{cel.AnyType, cel.DynType}}
		say("variable "+each.Name, compiler.CompileAndStoreVariable(what, given, environment.NewExpressions))
	}
	for i, each := range policy.Spec.Validations {
		what := expression{text: each.Expression, types: []*cel.Type{cel.BoolType}}
		say(fmt.Sprintf("validation %d", i), compiler.CompileCELExpression(what, given, environment.NewExpressions))
		if each.MessageExpression != "" {
			words := expression{text: each.MessageExpression, types: []*cel.Type{cel.StringType}}
			say(fmt.Sprintf("message %d", i), compiler.CompileCELExpression(words, given, environment.NewExpressions))
		}
	}
	return found
}
