-- Argo CD's health of ModelCascade, ServingPool, RLJob and Fleet (group motley.dev).
-- Argo CD gives the object as `obj` and opens no string library.
local function health(status, message)
  return {status = status, message = message or ""}
end

local status = obj.status or {}
if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "being deleted")
end
if status.conditions == nil then
  return health("Progressing", "waiting for the operator's first report")
end
if status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waiting for a report on the present spec")
end

local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local function is(kind, value)
  return found[kind] ~= nil and found[kind].status == value
end

for _, kind in ipairs({"Failed", "Stalled"}) do
  if is(kind, "True") then
    return health("Degraded", found[kind].message)
  end
end
if is("Suspended", "True") then
  return health("Suspended", found.Suspended.message)
end
local planned = found.Planned
if planned ~= nil and (planned.reason == "Paused" or planned.reason == "PreviewHolds") then
  return health("Suspended", planned.message)
end
if is("Reconciling", "True") then
  return health("Progressing", found.Reconciling.message)
end
if is("Complete", "True") then
  return health("Healthy", found.Complete.message)
end
-- It serves, but the plan leaves a part of what was asked for.
if is("Planned", "False") then
  return health("Degraded", planned.message)
end
if is("Ready", "True") then
  return health("Healthy", found.Ready.message)
end
return health("Progressing", found.Ready ~= nil and found.Ready.message or "not ready yet")
