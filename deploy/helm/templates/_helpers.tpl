{{- /* Named by its content, so that a new policy is rolled out. */ -}}
{{- define "tokenvault.config" -}}
tokenvault-config-{{ .Values.config | sha256sum | trunc 10 }}
{{- end -}}

{{- define "tokenvault.certificate" -}}
issuerRef:
  {{- toYaml .Values.issuer | nindent 2 }}
privateKey:
  algorithm: ECDSA
  size: 256
  rotationPolicy: Always
duration: 24h
renewBefore: 8h
{{- end -}}
