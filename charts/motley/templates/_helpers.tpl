{{- define "motley.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "motley.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "motley.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name the account to use, or set serviceAccount.create" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pod. Not `app.kubernetes.io/managed-by: motley`: that marks what
the operator itself makes. */}}
{{- define "motley.selector" -}}
app.kubernetes.io/name: motley-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "motley.labels" -}}
{{ include "motley.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* One image for the operator and for the gateways that it makes, in the registry of one's own if there is one. */}}
{{- define "motley.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.images.registry -}}
{{- $named := regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "" -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $named -}}
{{- end -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
