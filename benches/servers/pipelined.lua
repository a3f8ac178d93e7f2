-- For wrk: sixteen requests in one write.
local sixteen

init = function()
  sixteen = string.rep(wrk.format(), 16)
end

request = function()
  return sixteen
end
