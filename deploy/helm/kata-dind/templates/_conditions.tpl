{{/*
A CEL expression that is true for the pods that the policy may have something to say about; kata_dind/webhook/conditions.py
computes the same one for `kata-dind webhook manifest`, and tells why it is so.
*/}}
{{- define "kata-dind.pods" -}}
{{- $guards := .Values.policy.guards | default dict -}}
{{- $rules := .Values.policy.runtimeClasses -}}
{{- if or (ne "off" ($guards.sharedKernel | default "off")) (ne "off" ($guards.hostDocker | default "off")) -}}
true
{{- else -}}
{{- $terms := list -}}
{{- $kata := list -}}
{{- $others := list -}}
{{- range $rule := $rules -}}
  {{- $pattern := include "kata-dind.regularExpression" $rule.match -}}
  {{- if ne false $rule.kata -}}
    {{- $kata = append $kata ($pattern | default ".*") -}}
  {{- else if $pattern -}}
    {{- if $kata -}}
      {{- $terms = append $terms (include "kata-dind.term" (dict "kata" $kata "others" $others)) -}}
      {{- $kata = list -}}
    {{- end -}}
    {{- $others = append $others $pattern -}}
  {{- end -}}
{{- end -}}
{{- if $kata -}}
  {{- $terms = append $terms (include "kata-dind.term" (dict "kata" $kata "others" $others)) -}}
{{- end -}}
{{- join " || " $terms | default "false" -}}
{{- end -}}
{{- end -}}

{{/* True for classes that one of some patterns matches, and none of others. */}}
{{- define "kata-dind.term" -}}
{{- $matches := "object.spec.?runtimeClassName.orValue('').matches('^(%s)$')" -}}
{{- $term := printf $matches (join "|" .kata) -}}
{{- if .others -}}
({{ $term }} && !{{ printf $matches (join "|" .others) }})
{{- else -}}
{{ $term }}
{{- end -}}
{{- end -}}

{{/* A pattern in the syntax of RE2; empty for one with what no name of a class needs. */}}
{{- define "kata-dind.regularExpression" -}}
{{- $simple := regexMatch "^(?:[a-z0-9.*?-]|\\[!?(?:[a-z0-9]-[a-z0-9]|[a-z0-9])+\\])+$" . -}}
{{- range regexFindAll "\\[[^]]*\\]" . -1 -}}
  {{- range regexFindAll ".-." . -1 -}}
    {{- if gt (substr 0 1 .) (substr 2 3 .) -}}
      {{- $simple = false -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $simple -}}
{{- . | replace "." "[.]" | replace "?" "." | replace "*" ".*" | replace "[!" "[^" -}}
{{- end -}}
{{- end -}}
